"""What an image says about its model: settings and golden cases, read out of the image itself.

Takes unpacked layers, hands on parsed values. Never the project's files: a check is about the image.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from msgspec import Struct

from intermodal.engine.rootfs import read_from_layers
from intermodal.errors import InputError
from intermodal.golden.cases import MAX_BYTES, GoldenFile, parse_golden
from intermodal.oci.digest import Digest
from intermodal_server.contract import GOLDEN_PATH, SETTINGS_PATH, ContractError, ModelSettings

_MAX_SETTINGS_BYTES = 16 << 20


class Metadata(Struct, frozen=True):
    """Settings and golden cases; `golden` is None when the image has none."""

    settings: ModelSettings
    golden: GoldenFile | None
    golden_digest: Digest | None


def read_metadata(layers: Sequence[Path]) -> Metadata:
    """The metadata in an image's layers, lowest first.

    Raises:
        InputError: it is no image of ours, or its metadata is damaged.
    """
    settings = read_from_layers(layers, SETTINGS_PATH, _MAX_SETTINGS_BYTES)
    if settings is None:
        raise InputError(
            "the image was not built by intermodal",
            found=f"no {SETTINGS_PATH} in it",
            next="intermodal build PATH makes one that can be checked",
        )
    try:
        parsed = ModelSettings.from_json(settings)
    except ContractError as error:
        raise InputError(
            "the image's settings cannot be read", found=str(error), next="build it again: intermodal build PATH"
        ) from error
    golden = read_from_layers(layers, GOLDEN_PATH, MAX_BYTES)
    if golden is None:
        return Metadata(parsed, None, None)
    return Metadata(parsed, parse_golden(golden, "the image's golden.json"), Digest.of(golden))
