"""TensorBoard's summary values: scalars, histograms, pictures, texts, hyperparameters.

As its own plugins write and read them, without TensorFlow.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

from eventbus.handlers._pictures import size_of

if TYPE_CHECKING:
    from torch import Tensor

_BUCKETS = 64
_RGBA = 4  # `Summary.Image.colorspace`: channels


def scalar(tag: str, number: float) -> Any:
    """Make a point of a curve."""
    return _value(tag, simple_value=number)


def picture(tag: str, png: bytes) -> Any:
    """Make a picture of a PNG file."""
    width, height = size_of(png)
    image = proto("compat.proto.summary_pb2").Summary.Image(
        width=width, height=height, colorspace=_RGBA, encoded_image_string=png
    )
    return _value(tag, image=image)


def text(tag: str, words: str) -> Any:
    """Make a text, which TensorBoard shows as Markdown."""
    from tensorboard.plugins.text.metadata import create_summary_metadata

    shapes = proto("compat.proto.tensor_shape_pb2")
    tensor = proto("compat.proto.tensor_pb2").TensorProto(
        dtype=proto("compat.proto.types_pb2").DT_STRING,
        string_val=[words.encode("utf-8", "backslashreplace")],
        tensor_shape=shapes.TensorShapeProto(dim=[shapes.TensorShapeProto.Dim(size=1)]),
    )
    return _value(tag, tensor=tensor, metadata=create_summary_metadata(tag, ""))


def histogram(tag: str, tensor: Tensor) -> Any | None:
    """Make a histogram of the finite values; None where there are none.

    Copies the values to the host, which synchronises with their device.
    """
    import torch

    summary = proto("compat.proto.summary_pb2")
    values = _on_host(tensor)
    values = values[torch.isfinite(values)]
    if not len(values):
        return None
    low, high = values.min().item(), values.max().item()
    limits, counts = [high], [float(len(values))]
    if low < high:
        counts = torch.histc(values, _BUCKETS, low, high).tolist()
        limits = torch.linspace(low, high, _BUCKETS + 1, dtype=torch.float64)[1:].tolist()
    histo = summary.HistogramProto(
        min=low,
        max=high,
        num=len(values),
        sum=values.sum(dtype=torch.float64).item(),
        sum_squares=values.square().sum(dtype=torch.float64).item(),
        bucket_limit=limits,
        bucket=counts,
    )
    return _value(tag, histo=histo)


def _on_host(tensor: Tensor) -> Tensor:
    import torch

    values: Any = tensor.detach()
    if hasattr(values, "to_local"):  # sharded: gathering it would have to happen on every rank
        values = values.to_local()
    if values.is_sparse:
        values = values.coalesce().values()
    if not values.is_floating_point():
        return torch.empty(0)
    on_host: Tensor = values.to("cpu", torch.float32).flatten()
    return on_host


def session_start(settings: Mapping[str, bool | float | str], start_s: float) -> Any:
    """Make the hyperparameters of a run; `start_s` in seconds since 1970."""
    from tensorboard.plugins.hparams import metadata

    protos = proto("plugins.hparams.plugin_data_pb2")
    info = protos.SessionStartInfo(start_time_secs=start_s)
    for name, value in settings.items():
        if isinstance(value, bool):
            info.hparams[name].bool_value = value
        elif isinstance(value, str):
            info.hparams[name].string_value = value
        else:
            info.hparams[name].number_value = value
    data = protos.HParamsPluginData(session_start_info=info)
    return _hparams(metadata.SESSION_START_INFO_TAG, data)


def session_end(outcome: str, end_s: float) -> Any:
    """Make the end of a run with hyperparameters; `end_s` in seconds since 1970."""
    from tensorboard.plugins.hparams import metadata

    protos, api = proto("plugins.hparams.plugin_data_pb2"), proto("plugins.hparams.api_pb2")
    status = api.STATUS_FAILURE if outcome == "failed" else api.STATUS_SUCCESS
    info = protos.SessionEndInfo(status=status, end_time_secs=end_s)
    data = protos.HParamsPluginData(session_end_info=info)
    return _hparams(metadata.SESSION_END_INFO_TAG, data)


def _hparams(tag: str, data: Any) -> Any:
    from tensorboard.plugins.hparams.metadata import NULL_TENSOR, create_summary_metadata

    return _value(tag, tensor=NULL_TENSOR, metadata=create_summary_metadata(data))


def _value(tag: str, **parts: Any) -> Any:
    return proto("compat.proto.summary_pb2").Summary.Value(tag=tag, **parts)


def proto(name: str) -> Any:
    """Import generated code, whose classes come to be when it runs: no type checker knows them."""
    return import_module(f"tensorboard.{name}")
