"""Deleting rows from a trained model, with a receipt that says what was done and what is known of the result.

    problem = camu_jax.Problem.from_rows(model, variables, train, forget=rows)
    request = deletion.Request(key=key, problem=problem, test=test, settings=camu_jax.Camu(), count=8)
    result, receipt = deletion.delete(request, rows)
    print(receipt["guarantee"]["words"])

`delete` is all of it at once. Its parts are there on their own: `Request` trains what is needed, `Record` asks the
models, `figures` and `guarantee` say what follows, `receipt` seals it, `signing` signs it. None of them reads a clock
or a file.
"""

from camu_jax.deletion import figures, guarantee, receipt, signing
from camu_jax.deletion.delete import delete
from camu_jax.deletion.record import Record
from camu_jax.deletion.request import Request

__all__ = ["Record", "Request", "delete", "figures", "guarantee", "receipt", "signing"]
