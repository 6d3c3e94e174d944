"""Predictions: two specs in, an explained NFP out."""

from nfp_model.prediction.predicting import bind_forward, idle_compute_nfp, latency_curve, operator_latency, predict_nfp
from nfp_model.prediction.result import ModulePrediction, Prediction, saturated_positions

__all__ = [
    "ModulePrediction",
    "Prediction",
    "bind_forward",
    "idle_compute_nfp",
    "latency_curve",
    "operator_latency",
    "predict_nfp",
    "saturated_positions",
]
