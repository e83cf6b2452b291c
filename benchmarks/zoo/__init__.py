"""Small labelled training runs for judging a diagnostic: what is sick is told, and what only looks odd is left alone.

36 runs of 0.2 to 5 seconds on one thread, deterministic: 22 sick ones and 14 sound ones that tempt a naive rule.

    case.py         what a case is, and the fixed vocabulary of labels
    cases/          the cases themselves
    fit.py          trains one case, the same way for everything that looks at it
    scoring.py      verdicts on cases → precision, recall, layers named rightly, steps until noticed
    oracle.py       measures by brute force whether the labels are true; the modules it stands on:
                    witness.py, replay.py, activations.py, blame.py, facts.py, truth.py and evidence.py

No label is taken on trust. Each has a rule in truth.py, and each sick case a *cure*, the same run without the fault,
that is trained too. Where a label stands for harm, the sick run has to reach less than 60 % of the loss decrease of its
cured twin. `python benchmarks/labels.py` measures it all again.
"""
