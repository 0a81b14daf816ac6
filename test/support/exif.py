# SPDX-License-Identifier: Apache-2.0
"""Exif data for the JPEG files of tests."""

import struct

import cv2

EXIF_IFD, ORIENTATION, FOCAL_LENGTH_35MM = 0x8769, 0x0112, 0xA405
TURNED_RIGHT = 6  # The orientation of a picture that is upright after a quarter turn clockwise.


def jpeg_bytes(rgb, film_mm=None, orientation=None, taken_px=None):
    """Returns an image as a JPEG file, with the equivalent focal length and the orientation that are given.

    taken_px: (width, height) that the Exif data tell.
    """
    encoded = cv2.imencode(".jpg", rgb[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()
    first = [] if orientation is None else [struct.pack("<HHIHH", ORIENTATION, 3, 1, orientation, 0)]
    exif_at = 8 + 2 + 12 * (len(first) + 1) + 4
    first.append(struct.pack("<HHII", EXIF_IFD, 4, 1, exif_at))
    second = [] if film_mm is None else [struct.pack("<HHIHH", FOCAL_LENGTH_35MM, 3, 1, film_mm, 0)]
    for tag, size in zip((0xA002, 0xA003), taken_px or (), strict=False):
        second.insert(len(second) - (film_mm is not None), struct.pack("<HHII", tag, 4, 1, size))
    directories = [struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4) for entries in (first, second)]
    segment = b"Exif\0\0II*\0" + struct.pack("<I", 8) + b"".join(directories)
    return encoded[:2] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + encoded[2:]
