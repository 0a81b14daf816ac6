# SPDX-License-Identifier: Apache-2.0
"""Reads compressedDepth messages without OpenCV and without the package, as image_transport's plugin reads them.

PNG after its specification (ISO/IEC 15948: chunks, filters), header and inverse depth after the plugin's decoder.
"""

import struct
import zlib

import numpy as np


def read_compressed_depth(data: bytes, image_format: str) -> np.ndarray:
    """Returns float32 (H, W) metres, NaN = unknown, for 32FC1; uint16 (H, W) millimetres, 0 = unknown, for 16UC1."""
    encoding, _, compression = image_format.partition(";")
    assert "compressedDepth png" in compression, f"the plugin reads no {image_format!r}"
    kind, factor, offset = struct.unpack_from("=iff", data)
    assert kind == 0
    stored = read_grey_png(bytes(data)[12:])
    if encoding != "32FC1":
        return stored
    with np.errstate(divide="ignore"):
        depth_m = np.float32(factor) / (stored.astype(np.float32) - np.float32(offset))
    return np.where(stored == 0, np.float32(np.nan), depth_m)


def read_grey_png(png: bytes) -> np.ndarray:
    """Returns uint16 (H, W) of a grey PNG of 16 bits without interlacing."""
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    at, packed, size = 8, b"", (0, 0)
    while at < len(png):
        length, name = struct.unpack_from(">I4s", png, at)
        content = png[at + 8 : at + 8 + length]
        assert zlib.crc32(name + content) == struct.unpack_from(">I", png, at + 8 + length)[0]
        if name == b"IHDR":
            *size, bits, colour, _, _, interlaced = struct.unpack(">IIBBBBB", content)
            assert (bits, colour, interlaced) == (16, 0, 0)
        packed += content if name == b"IDAT" else b""
        at += 12 + length
    width, height = size
    rows = np.frombuffer(zlib.decompress(packed), np.uint8).reshape(height, 1 + 2 * width)
    above, lines = bytes(2 * width), []
    for row in rows:
        above = _unfiltered(int(row[0]), row[1:].tobytes(), above)
        lines.append(above)
    return np.frombuffer(b"".join(lines), ">u2").reshape(height, width).astype(np.uint16)


def _unfiltered(kind: int, row: bytes, above: bytes) -> bytes:
    out = bytearray(row)
    for at in range(len(out)):
        left, corner = (out[at - 2], above[at - 2]) if at >= 2 else (0, 0)
        up = above[at]
        nearest = min((left, up, corner), key=lambda each: abs(left + up - corner - each))  # ties: the first
        out[at] = (out[at] + (0, left, up, (left + up) // 2, nearest)[kind]) & 0xFF
    return bytes(out)
