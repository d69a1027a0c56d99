"""TensorBoard's summary values: scalars, histograms, pictures, texts, hyperparameters.

As its own plugins write and read them, without TensorFlow.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from eventbus.handlers._pictures import size_of

if TYPE_CHECKING:
    from torch import Tensor

_BUCKETS = 64
_RGBA = 4  # `Summary.Image.colorspace`: channels


def scalar(tag: str, number: float) -> Any:
    """Make a point of a curve."""
    from tensorboard.compat.proto.summary_pb2 import Summary

    return Summary.Value(tag=tag, simple_value=number)


def picture(tag: str, png: bytes) -> Any:
    """Make a picture of a PNG file."""
    from tensorboard.compat.proto.summary_pb2 import Summary

    width, height = size_of(png)
    image = Summary.Image(width=width, height=height, colorspace=_RGBA, encoded_image_string=png)
    return Summary.Value(tag=tag, image=image)


def text(tag: str, words: str) -> Any:
    """Make a text, which TensorBoard shows as Markdown."""
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.compat.proto.tensor_pb2 import TensorProto
    from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
    from tensorboard.compat.proto.types_pb2 import DT_STRING
    from tensorboard.plugins.text.metadata import create_summary_metadata

    one = TensorShapeProto(dim=[TensorShapeProto.Dim(size=1)])
    encoded = words.encode("utf-8", "backslashreplace")
    tensor = TensorProto(dtype=DT_STRING, string_val=[encoded], tensor_shape=one)
    return Summary.Value(tag=tag, tensor=tensor, metadata=create_summary_metadata(tag, ""))


def histogram(tag: str, tensor: Tensor) -> Any | None:
    """Make a histogram of the finite values; None where there are none.

    Copies the values to the host, which synchronises with their device.
    """
    import torch
    from tensorboard.compat.proto.summary_pb2 import HistogramProto, Summary

    values = _on_host(tensor)
    values = values[torch.isfinite(values)]
    if not len(values):
        return None
    low, high = values.min().item(), values.max().item()
    limits, counts = [high], [float(len(values))]
    if low < high:
        counts = torch.histc(values, _BUCKETS, low, high).tolist()
        limits = torch.linspace(low, high, _BUCKETS + 1, dtype=torch.float64)[1:].tolist()
    proto = HistogramProto(
        min=low,
        max=high,
        num=len(values),
        sum=values.sum(dtype=torch.float64).item(),
        sum_squares=values.square().sum(dtype=torch.float64).item(),
        bucket_limit=limits,
        bucket=counts,
    )
    return Summary.Value(tag=tag, histo=proto)


def _on_host(tensor: Tensor) -> Tensor:
    import torch

    values = tensor.detach()
    if hasattr(values, "to_local"):  # sharded: gathering it would have to happen on every rank
        values = values.to_local()
    if values.is_sparse:
        values = values.coalesce().values()
    if not values.is_floating_point():
        return torch.empty(0)
    return values.to("cpu", torch.float32).flatten()


def session_start(settings: Mapping[str, bool | float | str], start_s: float) -> Any:
    """Make the hyperparameters of a run; `start_s` in seconds since 1970."""
    from tensorboard.plugins.hparams import metadata
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionStartInfo

    info = SessionStartInfo(start_time_secs=start_s)
    for name, value in settings.items():
        if isinstance(value, bool):
            info.hparams[name].bool_value = value
        elif isinstance(value, str):
            info.hparams[name].string_value = value
        else:
            info.hparams[name].number_value = value
    data = HParamsPluginData(session_start_info=info)
    return _hparams(metadata.SESSION_START_INFO_TAG, data)


def session_end(outcome: str, end_s: float) -> Any:
    """Make the end of a run with hyperparameters; `end_s` in seconds since 1970."""
    from tensorboard.plugins.hparams import api_pb2, metadata
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionEndInfo

    failed = outcome == "failed"
    status = api_pb2.STATUS_FAILURE if failed else api_pb2.STATUS_SUCCESS
    data = HParamsPluginData(session_end_info=SessionEndInfo(status=status, end_time_secs=end_s))
    return _hparams(metadata.SESSION_END_INFO_TAG, data)


def _hparams(tag: str, data: Any) -> Any:
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.plugins.hparams.metadata import NULL_TENSOR, create_summary_metadata

    return Summary.Value(tag=tag, tensor=NULL_TENSOR, metadata=create_summary_metadata(data))
