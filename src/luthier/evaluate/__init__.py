"""Scores, their intervals and tests, the comparison of approaches, and what was forgotten."""

from luthier.evaluate.answer import Answer, LogProb, answer_to
from luthier.evaluate.comparison import ApproachResult, compare
from luthier.evaluate.cost import Latency, Throughput, break_even_requests, latency, throughput, total_s
from luthier.evaluate.forgetting import (
    ProbeResult,
    compare_probes,
    general_loss,
    general_text,
    general_text_validation,
    mean_divergence,
    measure_probes,
    minimal_pairs,
    truthful_answers,
    worsening,
)
from luthier.evaluate.metrics import (
    METRICS,
    Metric,
    check_metric_names,
    load_metric,
    metric_traits,
    score,
    validate_metric,
)
from luthier.evaluate.power import describe_power, minimum_detectable_difference, n_needed
from luthier.evaluate.statistics import (
    Difference,
    Interval,
    bootstrap_interval,
    holm,
    mcnemar_exact,
    paired_difference,
    wilson_interval,
)

__all__ = [
    "METRICS",
    "Answer",
    "ApproachResult",
    "Difference",
    "Interval",
    "Latency",
    "LogProb",
    "Metric",
    "ProbeResult",
    "Throughput",
    "answer_to",
    "bootstrap_interval",
    "break_even_requests",
    "check_metric_names",
    "compare",
    "compare_probes",
    "describe_power",
    "general_loss",
    "general_text",
    "general_text_validation",
    "holm",
    "latency",
    "load_metric",
    "mcnemar_exact",
    "mean_divergence",
    "measure_probes",
    "metric_traits",
    "minimal_pairs",
    "minimum_detectable_difference",
    "n_needed",
    "paired_difference",
    "score",
    "throughput",
    "total_s",
    "truthful_answers",
    "validate_metric",
    "wilson_interval",
    "worsening",
]
