# SPDX-License-Identifier: Apache-2.0
"""Calibrations as messages of the contract, and requests to change them as core objects."""

from collections.abc import Mapping

from blemish.v1 import model_pb2
from blemish_core.evaluation.metrics import Metrics
from blemish_core.models.calibration_log import CalibrationChange, Revision, ThresholdRule
from blemish_core.platform.errors import InvalidRequest
from blemish_server.auth.access import Caller

RULES: Mapping[ThresholdRule, model_pb2.ThresholdRule.ValueType] = {
    ThresholdRule.TRAINED: model_pb2.THRESHOLD_RULE_TRAINED,
    ThresholdRule.FALSE_REJECT_RATE: model_pb2.THRESHOLD_RULE_FALSE_REJECT_RATE,
    ThresholdRule.FIXED: model_pb2.THRESHOLD_RULE_FIXED,
}


def calibration(revision: Revision, measured: Metrics | None) -> model_pb2.Calibration:
    of = revision.calibration
    lower, upper = of.false_reject_rate_interval
    message = model_pb2.Calibration(
        threshold=of.threshold,
        target_false_reject_rate=0.0
        if revision.rule is ThresholdRule.FIXED
        else of.target_false_reject_rate,
        warranted_false_reject_rate=of.warranted_false_reject_rate,
        held_out_images=len(of.scores),
        best_f1_threshold=measured.best_f1_threshold if measured else None,
        revision=revision.number,
        author=revision.author,
        comment=revision.comment,
        rule=RULES[revision.rule],
        pixel_threshold=of.pixel_threshold,
        held_out_above=of.held_out_above,
        false_reject_rate_interval=model_pb2.RateInterval(lower=lower, upper=upper),
    )
    message.update_time.FromDatetime(revision.updated)
    return message


def change(request: model_pb2.UpdateCalibrationRequest, caller: Caller) -> CalibrationChange:
    """Return what a request of ``caller`` asks for; a name that he gives stands beside his own.

    Raises:
        InvalidRequest: if it asks for nothing, or does not say properly who asks and why.
    """
    match request.WhichOneof("rule"):
        case "target_false_reject_rate":
            rule, value = ThresholdRule.FALSE_REJECT_RATE, request.target_false_reject_rate
        case "threshold":
            rule, value = ThresholdRule.FIXED, request.threshold
        case "trained":
            rule, value = ThresholdRule.TRAINED, 0.0
        case _:
            raise InvalidRequest(
                "the request asks for no change: set target_false_reject_rate, threshold or trained",
                field="rule",
            )
    author = request.author
    if caller.name and author != caller.name:
        author = f"{author} ({caller.name})" if author else caller.name
    return CalibrationChange(rule, author, value, request.comment)


def expected_revision(request: model_pb2.UpdateCalibrationRequest) -> int | None:
    """Return the revision that must be the current one, None if any may be.

    Raises:
        InvalidRequest: if it cannot be one.
    """
    if request.expected_revision < 0:
        raise InvalidRequest(
            f"expected_revision is {request.expected_revision}, but revisions count from 1; 0 expects none",
            field="expected_revision",
        )
    return request.expected_revision or None
