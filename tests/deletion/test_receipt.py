"""Seals and signatures: whatever is changed in a receipt shows."""

import copy

import pytest

from camu_jax.deletion import receipt, signing

PARTS = dict(
    made="2026-11-25T10:00:00Z",
    asked={"rows": [1], "ids": None, "total": 9, "unlabelled": [], "left_out": 0},
    digests={"data": "0" * 64},
    work={"method": "retrain"},
    guarantee={"kind": "exact", "words": "..."},
    figures={"accuracy": {}, "audits": {}, "verdicts": None, "notes": []},
    duplicates={"exact": [], "near": [], "threshold": None, "level": 0.01},
)


def test_the_digest_covers_every_part():
    sealed = receipt.seal(**PARTS)
    assert receipt.digest(sealed) == sealed["digest"]
    for name in PARTS:
        changed = copy.deepcopy(sealed)
        changed[name] = "x" if isinstance(changed[name], str) else {**changed[name], "more": 1}
        assert receipt.digest(changed) != sealed["digest"]
    with pytest.raises(ValueError):
        receipt.seal(**{**PARTS, "work": {"seconds": float("nan")}})


def test_differences_name_the_place_and_allow_for_rounding():
    stated = {"a": [1.0, {"b": 2}], "c": "x", "d": None}
    assert list(receipt.differences(stated, {"a": [1.0 + 1e-9, {"b": 2}], "c": "x", "d": None}, "f")) == []
    lines = list(receipt.differences(stated, {"a": [1.0, {"b": 3}], "c": "y"}, "f"))
    assert lines == ["f.a[1].b: the receipt says 2, found 3", "f.c: the receipt says x, found y"]
    assert list(receipt.differences({"v": True}, {"v": 1.0000001}, "f")) != []
    assert list(receipt.differences({"v": [1]}, {"v": [1, 2]}, "f")) == ["f.v: the receipt says [1], found [1, 2]"]


def test_a_signature_is_of_the_contents_and_of_one_key(tmp_path):
    pytest.importorskip("cryptography")
    keys = []
    for name in ("one", "other"):
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
        pem = Ed25519PrivateKey.generate().private_bytes(encoding, form, serialization.NoEncryption())
        keys.append(signing.private_key(pem))
        del name
    sealed = receipt.seal(**PARTS)
    signed = signing.sign(sealed, keys[0])
    assert receipt.digest(signed) == sealed["digest"] and signing.signed_by(signed) == signed["signature"]["public_key"]
    assert signing.signed_by({**signed, "made": "yesterday"}) is None
    other = signing.sign(sealed, keys[1])["signature"]
    assert other["public_key"] != signed["signature"]["public_key"]
    assert signing.signed_by({**signed, "signature": {**signed["signature"], "value": other["value"]}}) is None
    assert signing.signed_by({**signed, "signature": {"public_key": "no", "value": "base64"}}) is None
    with pytest.raises(KeyError):
        signing.signed_by(sealed)


def test_what_is_no_ed25519_key_is_named():
    pytest.importorskip("cryptography")
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    with pytest.raises(ValueError, match="the key cannot be read .*; allowed: the PEM file of an Ed25519"):
        signing.private_key(b"nothing")
    encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    pem = ec.generate_private_key(ec.SECP256R1()).private_bytes(encoding, form, serialization.NoEncryption())
    with pytest.raises(ValueError, match="allowed: the PEM file of an Ed25519 private key"):
        signing.private_key(pem)


def test_a_missing_library_is_told_in_one_line(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "cryptography.hazmat.primitives", None)
    with pytest.raises(ImportError, match=r"pip install 'camu_jax\[signing\]'"):
        signing.private_key(b"")
