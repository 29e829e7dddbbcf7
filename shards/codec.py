"""Images to PNG, JPEG or WebP bytes and back.

PNG is written and read here (every row with the *up* filter, one IDAT chunk): what an encoder saves by trying filters
costs more time than all the rest of writing a shard. Whatever else an image may be, Pillow reads it.
Files are judged by their headers before anything of their declared size is allocated.
"""

import io
import struct
from functools import cache
from types import ModuleType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from genrep.shards.errors import DataError
from genrep.shards.layout import FULL_COLOUR, IMAGE_FORMATS, MAX_PIXELS, subsampling_complaint

Pixels = NDArray[np.uint8]
Buffer = bytes | memoryview

JPEG_QUALITY = 95

_PNG_START = b"\x89PNG\r\n\x1a\n"
_PNG_UP = b"\x02"
_PNG_END = b"\0\0\0\0IEND\xae\x42\x60\x82"
_PNG_DATA = 33  # offset of the chunk after signature and IHDR
_PNG_VERSION = "2"  # of the bytes that we make of pixels; before 2 the first bytes were not flushed


def default_format(height: int, width: int) -> str:
    """Lossless where images are small, else JPEG."""
    return "png" if max(height, width) <= 64 else "jpg"


def codec_versions() -> dict[str, str]:
    """Versions of what decides over the bytes of images and tables: libraries, and the way PNGs are made here."""
    from importlib.metadata import PackageNotFoundError, version

    versions = {"png": _PNG_VERSION}
    for library in ("isal", "pillow", "pyarrow", "simplejpeg"):
        try:
            versions[library] = version(library)
        except PackageNotFoundError:  # another one does its work
            versions[library] = "absent"
    return versions


def encode(images: Pixels, *, format: str, quality: int | None = None, subsampling: str = FULL_COLOUR) -> list[bytes]:
    """Encode a batch; each image's bytes depend on its own pixels alone.

    Args:
        images: uint8 (N, H, W, C), C 1 (stored as grey) or 3.
        format: ``png``, ``jpg`` or ``webp``.
        quality: 1 to 100; left out: 95 for jpg, lossless for webp. PNG has none.
        subsampling: Of the colours of a jpg: ``4:4:4`` keeps them all, ``4:2:0`` one value for 2 x 2 pixels.
    """
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] not in (1, 3):
        raise ValueError(f"images must be uint8 (N, H, W, 1 or 3), got {images.dtype} {images.shape}")
    if quality is not None and (format == "png" or not 1 <= quality <= 100):
        raise ValueError(f"quality is 1 to 100 for jpg and webp and nothing for png, got {quality} for {format}")
    complaint = subsampling_complaint(subsampling, image_format=format, channels=images.shape[3])
    if complaint:
        raise ValueError(complaint)
    images = np.ascontiguousarray(images)
    if format == "png":
        return _encode_png(images)
    if format == "jpg":
        return _encode_jpg(images, JPEG_QUALITY if quality is None else quality, subsampling)
    if format == "webp":
        lossy = {"lossless": True} if quality is None else {"quality": quality}
        return [_pillow_bytes(image, "WEBP", **lossy) for image in images]
    raise ValueError(f"no image format {format!r}, there are {', '.join(IMAGE_FORMATS)}")


def decode(data: Buffer, *, channels: Literal[1, 3]) -> Pixels:
    """Decode one image to uint8 (H, W, channels); grey is repeated to three.

    Raises:
        DataError: If it is damaged, larger than ``MAX_PIXELS``, or has colours where one channel is wanted.
    """
    out = np.empty((*_size(data), channels), np.uint8)
    decode_into(data, out)
    return out


def decode_into(data: Buffer, out: Pixels) -> None:
    """Decode one image into C-contiguous ``out``, uint8 (H, W, C), C 1 or 3; otherwise as ``decode``.

    Raises:
        DataError: As ``decode``, and if the image is not H x W.
    """
    if not out.flags.c_contiguous:
        raise ValueError("out must be C-contiguous")
    for channels in (1, 3)[: out.shape[2]]:  # the file's own
        if data[:_PNG_DATA] == _png_header(out.shape[0], out.shape[1], channels):
            if not _decode_own_png(data, out, channels):
                _decode_with_pillow(data, out)
            return
    if data[:2] == b"\xff\xd8" and _simplejpeg():
        _read_jpg(data, out, buffer=out)
    else:
        _decode_with_pillow(data, out)


def check(data: Buffer, image: Pixels) -> None:
    """Raise what ``decode_into`` would; ``image`` is overwritten, but not always with the pixels.

    The coded data of a JPEG are read to their end, and only the mean of every 8 x 8 block is computed from them.
    """
    if data[:2] == b"\xff\xd8" and _simplejpeg():
        _read_jpg(data, image, min_height=1, min_width=1)
    else:
        decode_into(data, image)


def _size(data: Buffer) -> tuple[int, int]:
    """Height and width as the header declares them."""
    if data[:8] == _PNG_START and len(data) >= _PNG_DATA:
        width, height = struct.unpack(">II", data[16:24])
    else:
        with _opened_by_pillow(data) as image:
            width, height = image.size
    if not 0 < height * width <= MAX_PIXELS:
        raise DataError(f"declares {height} x {width} pixels, more than {MAX_PIXELS:,} are not read")
    return height, width


# PNG


@cache
def _zlib() -> ModuleType:
    try:
        from isal import isal_zlib
    except ImportError:  # no wheel for this machine
        import zlib

        return zlib
    return isal_zlib


def _chunk(kind: bytes, content: bytes) -> bytes:
    return b"".join((struct.pack(">I", len(content)), kind, content, struct.pack(">I", _crc(kind, content))))


def _crc(kind: bytes, content: bytes) -> int:
    return _zlib().crc32(content, _zlib().crc32(kind))


@cache
def _png_header(height: int, width: int, channels: int) -> bytes:
    """Signature and IHDR of an 8-bit grey or RGB image without interlace (PNG specification, section 11.2.1)."""
    colour_type = 0 if channels == 1 else 2
    return _PNG_START + _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, colour_type, 0, 0, 0))


def _encode_png(images: Pixels) -> list[bytes]:
    num_images, height, width, channels = images.shape
    rows = images.reshape(num_images, height, width * channels)
    filtered = np.empty((num_images, height, 1 + width * channels), np.uint8)
    filtered[:, :, 0] = _PNG_UP[0]
    filtered[:, 0, 1:] = rows[:, 0]  # the row above the first counts as zero
    np.subtract(rows[:, 1:], rows[:, :-1], out=filtered[:, 1:, 1:])
    header = _png_header(height, width, channels)
    return [b"".join((header, _chunk(b"IDAT", _compressed(image)), _PNG_END)) for image in filtered]


def _compressed(data: Pixels) -> bytes:
    """As a zlib stream, whose first bytes are flushed by themselves.

    At level 1 ISA-L hashes a piece of the compressor's address as if it were data when a stream begins with more than
    16 bytes (``write_first_byte`` in its ``igzip_icf_body_h1_gr_bt.asm``, isal 1.9.1): at a few addresses in ten
    thousand a small image came out differently. With 4 to 16 bytes before a flush the stream has a history, and that
    place is not reached.
    """
    stream, data = _zlib().compressobj(1), data.reshape(-1)
    first = stream.compress(data[:8]) + stream.flush(_zlib().Z_SYNC_FLUSH)
    return first + stream.compress(data[8:]) + stream.flush()


def _decode_own_png(data: Buffer, out: Pixels, channels: int) -> bool:
    """Decode what ``_encode_png`` writes, its header being checked; False for any other layout or filter."""
    height, width = out.shape[:2]
    length = int.from_bytes(data[_PNG_DATA : _PNG_DATA + 4], "big")
    start = _PNG_DATA + 8
    if data[start - 4 : start] != b"IDAT" or data[start + length + 4 :] != _PNG_END:
        return False
    stride = 1 + width * channels
    stream = _zlib().decompressobj()
    try:
        raw = stream.decompress(data[start : start + length], height * stride + 1)  # one more shows what is too long
    except _zlib().error as error:
        raise DataError(f"is a damaged PNG ({error})") from error
    if len(raw) != height * stride or not stream.eof:
        raise DataError(f"is a damaged PNG (no {height * stride} bytes of pixels)")
    if raw[::stride] != _PNG_UP * height:
        return False
    differences = np.frombuffer(raw, np.uint8).reshape(height, stride)[:, 1:]
    if channels == out.shape[2]:
        np.add.accumulate(differences, axis=0, out=out.reshape(height, -1))
    else:
        out[...] = np.add.accumulate(differences, axis=0, dtype=np.uint8)[:, :, None]
    return True


# JPEG


@cache
def _simplejpeg() -> ModuleType | None:
    try:
        import simplejpeg
    except ImportError:  # no wheel for this machine
        return None
    return simplejpeg


def _encode_jpg(images: Pixels, quality: int, subsampling: str) -> list[bytes]:
    library, grey = _simplejpeg(), images.shape[3] == 1
    if library is None:
        return [_pillow_bytes(image, "JPEG", quality=quality, subsampling=subsampling) for image in images]
    colours = ("GRAY", "Gray") if grey else ("RGB", subsampling.replace(":", ""))
    how = {"quality": quality, "colorspace": colours[0], "colorsubsampling": colours[1]}
    return [library.encode_jpeg(image, **how) for image in images]


def _read_jpg(data: Buffer, out: Pixels, **how: Any) -> None:
    """Decode what has the shape of ``out``, to where and how ``simplejpeg.decode_jpeg`` is told."""
    library = _simplejpeg()
    assert library is not None
    try:
        height, width, colours, _ = library.decode_jpeg_header(data)
        _check_shape(out, height, width, grey=colours == "Gray")
        library.decode_jpeg(data, colorspace="RGB" if out.shape[2] == 3 else "GRAY", **how)
    except ValueError as error:
        raise DataError(f"is a damaged JPEG ({error})") from error


# anything else


def _pillow_bytes(image: Pixels, kind: str, **how: Any) -> bytes:
    from PIL import Image

    content = io.BytesIO()
    Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image).save(content, kind, **how)
    return content.getvalue()


@cache
def _pillow() -> ModuleType:
    import warnings

    from PIL import Image

    warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # a file that large is refused here in one line
    return Image


def _opened_by_pillow(data: Buffer) -> Any:
    try:
        return _pillow().open(io.BytesIO(data), formats=("PNG", "JPEG", "WEBP"))
    except Exception as error:  # Pillow raises whatever its parsers meet
        raise DataError(f"is no PNG, JPEG or WebP image ({_one_line(error)})") from error


def _decode_with_pillow(data: Buffer, out: Pixels) -> None:
    with _opened_by_pillow(data) as image:
        if image.mode not in ("L", "RGB"):
            raise DataError(f"has pixels of mode {image.mode}, a set holds L or RGB")
        lone = image.format == "WEBP" and out.shape[2] == 1  # WebP knows no grey: it comes back as three equal channels
        _check_shape(out, image.height, image.width, grey=lone or image.mode == "L")
        try:
            out[...] = np.asarray(image.convert("L" if out.shape[2] == 1 else "RGB")).reshape(out.shape)
        except Exception as error:
            raise DataError(f"is a damaged {image.format} ({_one_line(error)})") from error


def _check_shape(out: Pixels, height: int, width: int, *, grey: bool) -> None:
    if (height, width) != out.shape[:2]:
        raise DataError(f"is {height} x {width} pixels where {out.shape[0]} x {out.shape[1]} belong")
    if out.shape[2] == 1 and not grey:
        raise DataError("has colours where one channel belongs")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
