"""Footnotes on what the paper's tables themselves leave unclear, each checked against the printed figures."""

_AUGMENTED = (
    "The paper measured R_tr and F_tr of the CIFAR data sets on augmented images, so its R_tr lies below its T_s. "
    "Ours are on clean images unless --train_metrics=augmented was given."
)
_REPEATS_ACCURACY = (
    "Figures that the paper repeats for different experiments: Boundary has the same accuracies for 15% and 20% data "
    "on all data sets; Unroll on C10 and C100 the same for 10% and 15% (to 0.02); T-S on C10 the same for 10% and 20%."
)
_REPEATS_CLASS = "Unroll on Fashion has the same figures for class 0 and class 2 (88.72 and 0.40) in the paper."
_SISA_ATTACK = (
    "Every attack figure of SISA in the paper equals the share of non-members among the attacked examples: an attacker "
    "that always says non-member. That column carries no information."
)
_ATTACK_CHANCE = (
    "The share of members among the attacked examples depends on the size of the forget set, and with it the accuracy "
    "of a blind attacker: the rows of 15% and 20% data cannot be compared with those of 10%."
)
_REPEATS_ATTACK = (
    "Unroll on C10 and C100 has the same attack figures for 10% and 15% data (57.60 and 58.71) in the paper."
)
_AVERAGE_4 = (
    "CaMU's average difference is 4.22 in Table 4 of the paper and 4.09 in its text. Its attack figure for class 0 of "
    "C100 is 72.36 in Table 4 and 71.25 in Table 7; with 71.25 the average is 4.09."
)
_AVERAGE_12 = (
    "The row Average Diff of the paper's Table 12 (1.25, 2.41, 5.19, 3.70, 6.32, 1.48, 1.82) is the absolute value of "
    "the mean of the signed differences, in which opposite ones cancel. The mean of the absolute differences, which "
    "Table 4 has, would be 6.07, 3.63, 9.00, 4.71, 15.20, 2.59, 3.88."
)
_C100_ATTACK = "The paper's M of CaMU for class 0 of C100 is 71.25 here and 72.36 in Table 4."
_TIMES = (
    "Ours are seconds without compilation, on the devices named above; the paper's are of another machine. The factor "
    "is ours divided by the paper's. CaMU's times in the paper do not follow the size of the forget set "
    "(C10: 212 s for 10%, 163 s for 15%, 173 s for 20%), though its text says so."
)
_MARKS = (
    "The paper's own marks differ from this rule in ten rows: Table 2, Fashion T_s; Table 5, C10 and C100 data; "
    "Table 6, Digit F_tr and C10 T_s; Table 8, Digit R_tr, Fashion R_tr, C100 F_tr and T_s; Table 10, C100 R_ts. Its "
    "Tables 4, 12 and 13 mark no single row. All marks here follow the rule."
)

PAPER: dict[int, tuple[str, ...]] = {
    2: (_MARKS, _AUGMENTED, _REPEATS_ACCURACY),
    3: (_MARKS, _REPEATS_CLASS),
    4: (_MARKS, _SISA_ATTACK, _AVERAGE_4, _REPEATS_ATTACK),
    5: (_MARKS, _TIMES),
    6: (_MARKS, _AUGMENTED),
    7: (_MARKS, _C100_ATTACK),
    8: (_MARKS, _AUGMENTED, _REPEATS_ACCURACY),
    9: (_MARKS, _AUGMENTED, _REPEATS_ACCURACY),
    10: (_MARKS,),
    11: (_MARKS, _REPEATS_CLASS),
    12: (_MARKS, _SISA_ATTACK, _ATTACK_CHANCE, _AVERAGE_12, _REPEATS_ATTACK),
    13: (_MARKS, _TIMES),
}
"""The footnotes of each of the paper's tables."""


def mixed(difference: str) -> str:
    """The footnote of a cell whose seeds have different settings."""
    return f"The seeds of this cell were made with different settings ({difference})."
