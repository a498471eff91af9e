"""The conclusions on the first page of a report, for given figures."""

import pytest
from report_figures import EXPLAINED, figure

from sae_core.analysis.shared.names_in_tables import CONTROL_MISSING
from sae_core.report.figures import verdict_on
from sae_core.report.verdict import decide


def content(against: dict, *, steps=(), stop=None, seeds=1, dead=0.0, names=("bagged",), **figures) -> dict:
    """What `decide` needs: a single SAE and ensembles with the same figures."""
    shared = {"reconstruction.members": figure(2), "reconstruction.dead_fraction": figure(dead)}
    own = {EXPLAINED: figure(0.9), **shared, **{key.replace("__", "."): value for key, value in figures.items()}}
    single = {EXPLAINED: figure(0.8), "reconstruction.members": figure(1), "cost.train_flops": figure(10.0)}
    verdicts = {key: {**value, "verdict": verdict_on(value)} for key, value in against.items()}
    return {
        "ensembles": {
            "single": {"figures": single, "by_members": [], "stop": None, "against_single": {}},
            **{n: {"figures": own, "by_members": steps, "stop": stop, "against_single": verdicts} for n in names},
        },
        "runs": [{"seed": seed} for seed in range(seeds)],
        "left_out": [],
        "rule": {"worth": 0.01},
        "concepts": {"tasks": []},
    }


def test_the_first_page_says_what_the_figures_say():
    better = decide(content({EXPLAINED: figure(0.1, 0.08, 0.12)}, cost__train_flops=figure(25.0)))
    assert better["headline"].startswith(
        "Bagged raises explained variance from 80.0\u202f% (one SAE) to 90.0\u202f%, for 2.5"
    )
    assert "no ensemble is clearly better" in better["headline"]
    assert "explained variance +10.0 points (+8.0 to +12.0)" in better["bought"][0]
    assert "Where reconstruction counts, use bagged." in better["next"]
    assert any("(2.5×)" in sentence for sentence in better["cost"])
    open_ = decide(content({EXPLAINED: figure(0.1, -0.08, 0.28)}))
    assert open_["headline"].startswith("No ensemble explains clearly more")
    assert "could be chance" in open_["bought"][0]
    assert any("Stay with one SAE" in sentence for sentence in open_["next"])


def test_detecting_better_is_said_of_two_figures_alone_and_of_one_training_only_by_both():
    def headline(*, one: str, five: str, plain: str = "open", seeds: int) -> str:
        figures = {"higher": figure(0.05, 0.01, 0.09), "open": figure(0.02, -0.01, 0.05)}
        figures["lower"] = figure(-0.05, -0.09, -0.01)
        against = {EXPLAINED: figure(0.1, 0.08, 0.12), "concepts.1.standardised": figures[one]}
        against |= {"concepts.5.standardised": figures[five], "concepts.5.plain": figures[plain]}
        found = decide(content(against, seeds=seeds))
        worth = any("bagged may be worth the cost" in sentence for sentence in found["next"])
        said = "concepts are detected better by bagged" in found["headline"]
        assert said == worth
        return "better" if said else "open"

    assert headline(one="higher", five="open", seeds=5) == "better"
    assert headline(one="higher", five="open", seeds=1) == "open"
    assert headline(one="higher", five="higher", seeds=1) == "better"
    assert headline(one="higher", five="lower", seeds=5) == "open"
    assert headline(one="open", five="open", plain="higher", seeds=5) == "open"


def test_after_one_training_no_ensemble_is_said_to_find_more_by_recall_alone():
    def found(*, recall: str, f1: str, seeds: int) -> str:
        figures = {"higher": figure(0.05, 0.01, 0.09), "open": figure(0.02, -0.01, 0.05)}
        against = {"truth.recall": figures[recall], "truth.f1": figures[f1]}
        given = content(against, seeds=seeds, truth__recall=figure(0.3))
        given["ensembles"]["single"]["figures"]["truth.recall"] = figure(0.25)
        decision = decide({**given, "truth": {"by_frequency": {}}})
        assert any("true features found +" in sentence for sentence in decision["bought"])
        assert any("tokens and true features" in sentence for sentence in decision["sure"]) == (seeds == 1)
        (said,) = (sentence for sentence in decision["next"] if "true features" in sentence)
        return said

    assert found(recall="higher", f1="open", seeds=5) == "Where true features are to be found, use bagged."
    assert found(recall="open", f1="higher", seeds=5).startswith("No ensemble finds clearly more")
    assert found(recall="higher", f1="open", seeds=1).startswith("No ensemble finds clearly more")
    assert found(recall="open", f1="higher", seeds=1).startswith("No ensemble finds clearly more")
    both = found(recall="higher", f1="higher", seeds=1)
    assert both.startswith("In this training bagged found more")
    assert both.endswith("whether other trainings would, only more seeds tell.")


def test_the_first_page_says_where_to_stop_and_what_is_still_missing():
    step = {"members": 2, "added_explained_variance": figure(0.004), "added_per_cost": figure(0.002)}
    first = {"members": 1, "added_explained_variance": figure(0.8), "added_per_cost": figure(0.8)}
    stopped = decide(content({}, steps=[first, step], stop=1, dead=0.3))["next"]
    assert any("stop at 1 of 2 members; the next one adds 0.4 points" in sentence for sentence in stopped)
    assert any("30\u202f% of the features of bagged are dead" in sentence for sentence in stopped)
    assert any("train expanded_l0" in sentence for sentence in stopped)
    assert any("Repeat it with 5 seeds" in sentence for sentence in stopped)
    going_on = decide(content({}, steps=[first, step], seeds=5))
    assert any("all 2 members were worth it" in sentence for sentence in going_on["next"])
    assert not any("Repeat it" in sentence or "are dead" in sentence for sentence in going_on["next"])
    assert any("means over 5 trainings" in sentence for sentence in going_on["sure"])


@pytest.mark.parametrize(
    ("baseline", "said"),
    [((0.95, 0.96, 0.94), "the better buy"), ((0.7, 0.71, 0.72), "explains more than one SAE of the same width")],
)
def test_the_baseline_of_the_same_l0_decides_whether_ensembling_helps(baseline, said):
    given = content({EXPLAINED: figure(0.1, 0.08, 0.12)}, names=("bagged", "expanded_l0"), seeds=3)
    given["ensembles"]["bagged"]["figures"] = {**given["ensembles"]["bagged"]["figures"]}
    own = {**given["ensembles"]["bagged"]["figures"], "reconstruction.members": figure(1)}
    given["ensembles"]["expanded_l0"]["figures"] = {**own, EXPLAINED: {**figure(0.9), "values": list(baseline)}}
    given["ensembles"]["bagged"]["figures"][EXPLAINED] = {**figure(0.9), "values": [0.9, 0.905, 0.895]}
    sentences = decide(given)["next"]
    assert any(said in sentence for sentence in sentences)
    assert not any("train expanded_l0" in sentence for sentence in sentences)


def with_control(control, *, steps=4, detected=None) -> dict:
    against = {EXPLAINED: figure(0.1, 0.08, 0.12)}
    if detected is not None:
        against["concepts.5.standardised"] = figure(detected, detected - 0.001, detected + 0.001)
    given = content(against, names=("boosted",), cost__train_flops=figure(25.0))
    given["ensembles"]["boosted"] |= {"stages": steps, "control": control}
    return decide(given)


def test_boosting_is_judged_beside_its_untrained_control():
    above = {**figure(0.01, 0.008, 0.012), "interval": "paired bootstrap"}
    control = {"figures": {EXPLAINED: figure(0.89)}, "untrained_share": figure(0.9), "trained_above": above}
    found = with_control(control)
    assert (
        "; stage 1 + random stages explain 89.0\u202f%, so 90\u202f% of what the later stages add needs no training"
        in found["headline"]
    )
    assert "of these +1.0 points (+0.8 to +1.2) above stage 1 + random stages" in found["bought"][0]
    assert any("random ones explain 90\u202f% of what they do" in sentence for sentence in found["next"])
    detected = {**figure(-0.002, -0.01, 0.006), "interval": "paired bootstrap", "verdict": "open"}
    beside = with_control({**control, "detected_above": {"concepts.5.standardised": detected}}, detected=0.004)
    assert (
        "detection with 5 standardised features +0.4 points (+0.3 to +0.5), −0.2 points (−1.0 to +0.6, could be "
        "chance) against stage 1 + random stages"
    ) in beside["bought"][0]
    # An ensemble that detects concepts better, but no better than untrained stages, is said to do that.
    both = {key: figure(0.05, 0.01, 0.09) for key in ("concepts.1.standardised", "concepts.5.standardised")}
    given = content({EXPLAINED: figure(0.1, 0.08, 0.12), **both}, names=("boosted",))
    for verdict, said in (("open", True), ("lower", True), ("higher", False)):
        shown = {**control, "detected_above": {key: {**detected, "verdict": verdict} for key in both}}
        given["ensembles"]["boosted"] |= {"stages": 4, "control": shown}
        headline = decide(given)["headline"]
        assert "concepts are detected better by boosted" in headline
        assert ("(but not surely better than by stage 1 + random stages)" in headline) == said
    learnt = with_control({**control, "untrained_share": figure(0.2)})
    assert "20\u202f% of what the later stages add needs no training" in learnt["headline"]
    assert not any("something learnt" in sentence for sentence in learnt["next"])
    # Where it was not measured that is said, and where nothing is boosted there is nothing to say.
    missing = with_control(None)
    assert "is not measured" in missing["headline"]
    assert CONTROL_MISSING in missing["next"]
    alone = with_control(None, steps=1)
    assert "random stages" not in " ".join([alone["headline"], *alone["bought"], *alone["next"]])
