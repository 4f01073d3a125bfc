"""CTF fits with both signs of depth, of all series -> one hand for the run, and the tables to go on with."""

from cryoet_core.config.decide_handedness import DecideHandedness
from cryoet_core.ctf.fit import HandEvidence
from cryoet_core.ctf.handedness import choose_table, decide_run
from cryoet_core.io.summary import read_summary
from cryoet_core.left_out import read_note, write_notes
from cryoet_core.metadata import read_tilt_series, write_tilt_series
from cryoet_core.step import step

with step(snakemake) as s:
    given = s.model(DecideHandedness).given
    summaries = [read_summary(path) for path in s.usable(s.input.summaries)]
    told = {found["name"]: found["hand_evidence"] for found in summaries if found["fitted"]}
    evidence = {
        name: HandEvidence(e["log_likelihood_plus_minus"], e["votes_plus"], e["votes_minus"]) for name, e in told.items()
    }
    hand = decide_run(evidence)
    turn = given is None and hand.decided > 0
    if turn:
        s.log.warning(
            "the defocus gradients of %d series say handedness +1 (log-likelihood %.0f, %d views for, %d against): the tilt axis of "
            "every series is turned by 180 degrees and -1 stored. Set import_tilt_series.tilt_axis_deg to the other end of the "
            "axis to make this lasting, or decide_handedness.handedness to keep the axis",
            len(evidence), hand.total.difference, hand.total.votes_plus, hand.total.votes_minus,
        )
    elif hand.decided == 0:
        s.log.warning("hand not decided by CTF: -1 is kept; the mirrored-template control of match_template is the check")
    elif given is not None and given != hand.decided:
        s.log.warning("handedness %+d was given, but the defocus gradients say %+d", given, hand.decided)
    for name in hand.against:
        s.log.warning("%s: its own defocus gradient says the opposite of the run: check its tilt angles and axis", name)
    for plus, minus, path in zip(s.input.plus, s.input.minus, s.output.tables, strict=True):
        if note := read_note(plus):
            write_notes([path], note)
            continue
        write_tilt_series(choose_table(read_tilt_series(plus), read_tilt_series(minus), hand.decided, given), path)
    total = hand.total
    s.write_summary({
        "decided_by_ctf": hand.decided, "given": given, "axis_turned_180": turn,
        "handedness": given or -1, "log_likelihood_plus_minus": total.difference,
        "votes_plus": total.votes_plus, "votes_minus": total.votes_minus, "against": list(hand.against),
        "series": {
            name: {"log_likelihood_plus_minus": e.difference, "votes_plus": e.votes_plus, "votes_minus": e.votes_minus,
                   "decided": e.decided} for name, e in sorted(evidence.items())
        },
    })
