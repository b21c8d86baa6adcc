"""Attacks x defences x shares of hostile teachers: what each costs, who is found.

    python -m benchmarks.robustness --workdir=DIR --pool=RUN --zoo=ZOO --other=ZOO2 \
        --data=DIR/cifar_fs --part=found|panel|students|plot

Images and answers are those of a finished panel run of honest teachers; what hostile
ones would say follows from them (a permutation of names, stand-ins asked once).  Parts,
each of which continues where it was stopped (a file a cell, in DIR):

- found: whom the trust rule leaves out, hits and false alarms, for every attack, share
  and seed, and for honest zoos (``--honest=ZOO:RUN,...``); revised and by one pass;
- panel: the panel itself on real validation classes, by nearest centroid;
- students: one network distilled for each attack, defence and share, the same episodes;
- plot: tables and ``robustness.png`` of what is there.

Defences: "none"; "trust", our rule, revised by those who are believed (``trust_passes``
above 1); "selection", Trustworthy-DFML's policy, rewarded by the panel's accuracy on
REAL images of half of the validation classes (as released; not data-free).  Whom it
keeps, those drawn with at least half of the uniform chance, is a cutoff of ours: the
released code has none.  It fails on honest zoos, where the noise of rewards makes the
policy prefer a few of equally good teachers; "class heads" shared by the teachers of a
class, without and with trust; "median" and "trimmed", the middle of a class's votes.
All are measured on the other half of the validation classes; nothing sees a test class.
``patched`` is the accuracy where every query has a white corner.

DIR keeps the settings of what is in it (``*.settings.json``) and refuses others.
"""
