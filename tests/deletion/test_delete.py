"""A deletion in one call: what its receipt says of a model that knew the rows by heart."""

import json

import jax
import numpy as np
import pytest

from camu_jax import NegGrad, Problem, Retrain, Sisa, digests
from camu_jax.deletion import Record, Request, delete, figures, receipt
from camu_jax.deletion.delete import audit_key, deleted_until
from tests.deletion.conftest import MODEL, NOTHING
from tests.helpers import assert_close


@pytest.fixture(scope="module")
def retrained(request_of, rows):
    return delete(request_of(), rows)


@pytest.fixture(scope="module")
def untouched(request_of, rows):
    return delete(request_of(NOTHING), rows)


def test_an_exact_deletion_says_so_and_its_rows_are_gone(retrained, rows):
    _, found = retrained
    assert found["guarantee"]["kind"] == "exact" and "forgotten" not in json.dumps(found)
    accuracy = found["figures"]["accuracy"]
    assert accuracy["before"]["forget"] > 95 and accuracy["after"]["forget"] < 50 and accuracy["after"]["retain"] > 95
    of_rows = found["figures"]["verdicts"]
    assert of_rows["gone"] + of_rows["visible"] + of_rows["never_memorised"] == len(rows) == len(of_rows["rows"])
    assert of_rows["gone"] >= 0.5 * len(rows) and of_rows["outcome"] == "failed"
    assert found["figures"]["audits"]["loss_auc"]["outcome"] == "failed"


def test_a_method_that_does_nothing_is_found_out(untouched, rows):
    _, found = untouched
    assert found["guarantee"]["kind"] == "none" and "still tell" in found["guarantee"]["words"]
    assert found["figures"]["audits"]["loss_auc"]["outcome"] == "found"
    assert (
        found["figures"]["verdicts"]["outcome"] == "found" and found["figures"]["verdicts"]["visible"] > len(rows) / 2
    )
    assert found["figures"]["accuracy"]["after"] == found["figures"]["accuracy"]["before"]


def test_the_same_request_gives_the_same_receipt_which_is_json(retrained, request_of, rows):
    result, found = retrained
    again_result, again = delete(request_of(), rows)
    assert again == found == json.loads(json.dumps(found, allow_nan=False))
    assert receipt.digest(found) == found["digest"]
    assert digests.of_tree(result.members) == found["digests"]["result"] == digests.of_tree(again_result.members)


def test_figures_follow_from_the_record_alone(request_of):
    request = request_of(NOTHING, count=4)
    record = Record.take(request, request.original, request.without(0), request.margins())
    stored = {name: np.array(array) for name, array in record.arrays().items()}
    again = Record.of_arrays(stored)
    found = figures.compute(record, request.keys.audit)
    assert figures.compute(again, request.keys.audit) == found
    stored["after.right.forget"] = ~stored["after.right.forget"]
    changed = figures.compute(Record.of_arrays(stored), request.keys.audit)
    lines = list(receipt.differences(found, changed, "figures"))
    assert len(lines) == 1 and lines[0].startswith("figures.accuracy.after.forget: the receipt says")


def test_the_key_of_the_attacks_is_in_the_receipt(retrained, request_of):
    _, found = retrained
    assert jax.random.key_data(audit_key(found)).tolist() == jax.random.key_data(request_of().keys.audit).tolist()


def test_the_control_is_the_first_of_the_witnesses(request_of):
    request = request_of(count=4)
    margins = request.margins()
    record = Record.take(request, request.original, request.without(0), margins)
    of_control = figures._margins(record, record.control)
    assert_close(margins[0], of_control, rtol=1e-4, atol=1e-4)  # another order of sums


def test_without_models_nothing_can_be_said(request_of, rows):
    _, found = delete(request_of(NOTHING, count=0), rows)
    assert found["guarantee"]["kind"] == "none" and "Nothing was measured" in found["guarantee"]["words"]
    assert found["figures"]["verdicts"] is None and found["figures"]["accuracy"]["control"] is None
    assert {attack["outcome"] for attack in found["figures"]["audits"].values()} == {"open"}


def test_heads_are_named_as_what_they_are(request_of, rows):
    _, found = delete(request_of(NOTHING, witnesses="heads", count=6, control=True), rows)
    of_rows = found["figures"]["verdicts"]
    assert of_rows["witnesses"] == 6 and len(of_rows["rows"]) == len(rows)
    assert found["work"]["witnesses"]["kind"] == "heads"
    assert any("heads on the embedding of the original model" in note for note in found["figures"]["notes"])


def test_an_ensemble_is_a_result_too(request_of, rows):
    sisa = Sisa(epochs=2, shards=2, batch_size=16)
    result, found = delete(request_of(sisa, count=0), rows)
    assert len(result.members) == 2 and found["guarantee"]["kind"] == "exact" and "sisa" in found["guarantee"]["words"]


def test_receipts_are_a_chain(request_of, rows, data, untouched):
    _, first = untouched
    rest = np.setdiff1d(np.arange(120), rows)
    train = data[0][rest]
    problem = Problem.from_rows(MODEL, untouched[0].variables, train, [0, 2])
    second_rows = rest[[0, 2]].tolist()
    request = request_of(NOTHING, problem=problem, count=0)
    _, second = delete(request, second_rows, previous=first)
    assert second["previous"] == {"digest": first["digest"], "rows": rows}
    assert second["digests"]["original"] == first["digests"]["result"]
    assert deleted_until(second) == sorted([*rows, *second_rows]) and second["asked"]["total"] == 120
    with pytest.raises(ValueError, match="none that was deleted before"):
        delete(request, [0, 4], previous=first)


def test_a_class_that_the_test_set_lacks_is_deleted_without_attacks(data, original):
    train, test = data
    of_class = np.flatnonzero(np.asarray(train.y) == 0)
    test = test.pick(np.flatnonzero(np.asarray(test.y) != 0))
    problem = Problem.from_rows(MODEL, original, train, of_class)
    settings = NegGrad(epochs=np.int64(1))  # a number of NumPy, as a loop over settings gives it
    request = Request(key=jax.random.key(0), problem=problem, test=test, settings=settings, count=0)
    _, found = delete(request, of_class.tolist())
    assert not found["figures"]["audits"] and "no example of the classes (0,)" in found["figures"]["notes"][0]
    assert found["guarantee"]["kind"] == "none" and found["work"]["settings"]["epochs"] == 1


@pytest.mark.parametrize("wrong", [[1], [4, 0], [0, 0], [0, 500]])
def test_wrong_numbers_of_rows_are_named(request_of, wrong):
    with pytest.raises(ValueError, match="rows holds . numbers; allowed: 2, those of the forget set"):
        delete(request_of(forget=[0, 4]), wrong)


def test_a_wrong_request_is_refused_before_any_work(request_of):
    with pytest.raises(ValueError, match="count is 3; allowed"):
        request_of(count=3)
    with pytest.raises(ValueError, match="witnesses is 'head'; allowed: models, heads"):
        request_of(witnesses="head")
    assert isinstance(request_of(Retrain()), Request)
