import io
import struct
import subprocess
import sys
import tracemalloc
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from genrep.shards import codec
from genrep.shards.errors import DataError


def noise(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def slope(height, width, channels):
    y, x, c = np.meshgrid(np.arange(height), np.arange(width), np.arange(channels), indexing="ij")
    return ((2 * y + 3 * x + 40 * c) % 256).astype(np.uint8)


def by_pillow(data):
    with Image.open(io.BytesIO(data)) as image:
        array = np.asarray(image)
    return array[:, :, None] if array.ndim == 2 else array


def saved(array, kind, **how):
    file = io.BytesIO()
    Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array).save(file, kind, **how)
    return file.getvalue()


@pytest.fixture(params=["with isal and simplejpeg", "without"])
def libraries(request, monkeypatch):
    for loader in (codec._zlib, codec._simplejpeg, codec._png_header):
        loader.cache_clear()
    if request.param == "without":
        monkeypatch.setitem(sys.modules, "isal", None)
        monkeypatch.setitem(sys.modules, "simplejpeg", None)
    yield
    for loader in (codec._zlib, codec._simplejpeg, codec._png_header):
        loader.cache_clear()


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 1, 3), (28, 28, 1), (13, 64, 3), (64, 5, 1)])
@pytest.mark.parametrize("image_format", ["png", "webp"])
def test_png_and_webp_are_lossless_as_we_and_as_others_read_them(libraries, image_format, shape):
    images = np.concatenate([noise(3, *shape), slope(*shape)[None], np.zeros((1, *shape), np.uint8)])
    for data, image in zip(codec.encode(images, format=image_format), images, strict=True):
        assert np.array_equal(codec.decode(data, channels=shape[2]), image)
        assert np.array_equal(codec.decode(memoryview(data), channels=3), np.broadcast_to(image, (*shape[:2], 3)))
        assert np.array_equal(by_pillow(data)[:, :, : shape[2]], image)


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB")])
@pytest.mark.parametrize("image_format", ["png", "jpg"])
def test_one_channel_is_stored_as_grey(libraries, image_format, channels, mode):
    (data,) = codec.encode(slope(16, 16, channels)[None], format=image_format)
    assert Image.open(io.BytesIO(data)).mode == mode


def test_jpeg_is_quality_95_without_subsampling_unless_asked(libraries):
    image = slope(32, 48, 3)
    (data,) = codec.encode(image[None], format="jpg")
    ours = Image.open(io.BytesIO(data))
    reference = Image.open(io.BytesIO(saved(image, "JPEG", quality=95, subsampling=0)))
    assert ours.quantization == reference.quantization
    assert [layer[1:3] for layer in ours.layer] == [(1, 1)] * 3
    (coarse,) = codec.encode(image[None], format="jpg", quality=30)
    assert Image.open(io.BytesIO(coarse)).quantization != ours.quantization
    assert len(coarse) < len(data)


def test_the_colours_of_a_jpeg_may_be_kept_at_half_the_resolution(libraries):
    image = slope(32, 48, 3)
    (data,) = codec.encode(image[None], format="jpg", subsampling="4:2:0")
    ours = Image.open(io.BytesIO(data))
    assert [layer[1:3] for layer in ours.layer] == [(2, 2), (1, 1), (1, 1)]
    assert ours.quantization == Image.open(io.BytesIO(saved(image, "JPEG", quality=95))).quantization
    assert np.array_equal(codec.decode(data, channels=3), by_pillow(data))


@pytest.mark.parametrize(
    ("image_format", "channels", "subsampling", "complaint"),
    [
        ("jpg", 3, "4:1:1", "'4:1:1' is not known; known: 4:4:4, 4:2:0"),
        ("jpg", 1, "4:2:0", "is for jpg of 3 channels, the images are jpg of 1"),
        ("png", 3, "4:2:0", "is for jpg of 3 channels, the images are png of 3"),
        ("webp", 3, "4:2:0", "is for jpg of 3 channels, the images are webp of 3"),
    ],
)
def test_only_colours_of_a_jpeg_can_be_subsampled(image_format, channels, subsampling, complaint):
    with pytest.raises(ValueError, match=complaint):
        codec.encode(noise(1, 4, 4, channels), format=image_format, subsampling=subsampling)


@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_pixels_are_those_that_pillow_decodes(libraries, channels):
    (data,) = codec.encode(slope(33, 47, channels)[None], format="jpg")
    assert np.array_equal(codec.decode(data, channels=channels), by_pillow(data))
    error = codec.decode(data, channels=channels).astype(int) - slope(33, 47, channels)
    assert np.abs(error).mean() < 3


@pytest.mark.parametrize("how", [{}, {"optimize": True}, {"compress_level": 0}, {"compress_level": 9}])
@pytest.mark.parametrize("channels", [1, 3])
def test_png_files_of_other_programs_are_read(channels, how):
    image = noise(29, 31, channels)
    assert np.array_equal(codec.decode(saved(image, "PNG", **how), channels=channels), image)


@pytest.mark.parametrize("image_format", ["png", "jpg", "webp"])
def test_an_image_has_the_same_bytes_in_any_batch(image_format):
    images = noise(5, 12, 10, 3)
    whole = codec.encode(images, format=image_format)
    assert [codec.encode(image[None], format=image_format)[0] for image in images] == whole
    assert codec.encode(np.asfortranarray(images), format=image_format) == whole


def test_an_image_has_the_same_bytes_whatever_lay_in_memory_and_whichever_thread_encodes_it():
    images = np.broadcast_to(np.arange(256, dtype=np.uint8)[:, None, None, None], (256, 8, 8, 1))
    expected = codec.encode(images, format="png")
    source = np.random.default_rng(0)
    for _ in range(20):
        rubbish = [source.bytes(size) for size in (1_000, 50_000, 300_000, 300_000, 2_000_000)]
        del rubbish
        assert codec.encode(images, format="png") == expected
        with ThreadPoolExecutor(4) as pool:
            assert list(pool.map(lambda _: codec.encode(images, format="png"), range(8))) == [expected] * 8


def test_an_image_has_the_same_bytes_wherever_its_compressor_lies(monkeypatch):
    library, kept = codec._zlib(), []

    class Kept:
        """The library, but every compressor stays, so that the next one lies elsewhere."""

        Z_SYNC_FLUSH = library.Z_SYNC_FLUSH
        crc32 = library.crc32

        @staticmethod
        def compressobj(level):
            kept.append(library.compressobj(level))
            return kept[-1]

    monkeypatch.setattr(codec, "_zlib", lambda: Kept)
    for grey in range(8):  # which addresses matter depends on how an image begins
        image = np.full((1, 28, 28, 1), grey, np.uint8)
        image[:, ::3, 5:] = np.arange(23)[:, None]
        kept.clear()
        assert len({codec.encode(image, format="png")[0] for _ in range(12_000)}) == 1


def test_the_default_is_lossless_up_to_64_pixels():
    assert [codec.default_format(*size) for size in [(28, 28), (64, 64), (64, 65), (128, 128)]] == [
        "png", "png", "jpg", "jpg",
    ]  # fmt: skip


@pytest.mark.parametrize("quality", [0, 101])
def test_a_quality_out_of_range_is_refused(quality):
    with pytest.raises(ValueError, match="quality"):
        codec.encode(noise(1, 4, 4, 3), format="jpg", quality=quality)
    with pytest.raises(ValueError, match="quality"):
        codec.encode(noise(1, 4, 4, 3), format="png", quality=90)


def decoded_or_none(data, channels):
    try:
        return codec.decode(data, channels=channels)
    except DataError:
        return None


@pytest.mark.parametrize("image_format", ["png", "jpg", "webp"])
def test_an_image_cut_short_is_refused(libraries, image_format):
    (data,) = codec.encode(noise(1, 16, 16, 3), format=image_format)
    for end in range(0, len(data) - 24, 7):  # the last 24 bytes of a PNG hold no pixels, only checksums and its end
        assert decoded_or_none(data[:end], 3) is None


def test_no_flipped_bit_of_a_png_gives_other_pixels(libraries):
    image = slope(9, 7, 1)
    (data,) = codec.encode(image[None], format="png")
    for place in range(len(data)):
        for bit in range(8):
            damaged = bytearray(data)
            damaged[place] ^= 1 << bit
            found = decoded_or_none(bytes(damaged), 1)
            assert found is None or np.array_equal(found, image)


def png_of(height, width, raw, *, colour_type=0):
    header = struct.pack(">IIBBBBB", width, height, 8, colour_type, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(raw, 9)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )


@pytest.mark.parametrize(
    "data",
    [
        png_of(2**31 - 1, 2**31 - 1, b""),
        png_of(50_000, 50_000, bytes(1000)),
        png_of(28, 28, bytes(50_000_000)),
        png_of(28, 28, b"\x02" + bytes(28)),
        b"",
        b"\xff\xd8\xff",
        b"GIF89a" + bytes(100),
        b"RIFF\xff\xff\xff\xffWEBPVP8X" + bytes(100),
    ],
    ids=["huge", "large", "inflating", "short", "empty", "jpeg start", "gif", "webp start"],
)
def test_what_a_header_declares_is_not_allocated(libraries, data):
    codec.encode(noise(1, 4, 4, 3), format="png")  # imports are not what is measured
    tracemalloc.start()
    try:
        with pytest.raises(DataError):
            codec.decode(data, channels=3)
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("image_format", ["png", "jpg", "webp"])
def test_an_image_of_another_size_than_belongs_there_is_refused(libraries, image_format):
    (data,) = codec.encode(noise(1, 8, 9, 3), format=image_format)
    with pytest.raises(DataError, match="8 x 9 pixels where 9 x 8 belong"):
        codec.decode_into(data, np.empty((9, 8, 3), np.uint8))


@pytest.mark.parametrize("image_format", ["png", "jpg"])
def test_colours_are_not_turned_to_grey_unasked(libraries, image_format):
    (data,) = codec.encode(noise(1, 8, 8, 3), format=image_format)
    with pytest.raises(DataError, match="has colours where one channel belongs"):
        codec.decode(data, channels=1)


def test_pixels_of_another_mode_are_refused():
    file = io.BytesIO()
    Image.fromarray(noise(4, 4, 4), "RGBA").save(file, "PNG")
    with pytest.raises(DataError, match="mode RGBA"):
        codec.decode(file.getvalue(), channels=3)


def test_the_versions_name_the_libraries_that_decide_over_bytes_and_the_way_pngs_are_made():
    assert set(codec.codec_versions()) == {"isal", "pillow", "png", "pyarrow", "simplejpeg"}


def test_a_large_image_is_refused_without_a_warning_beside_the_error():
    side = 10_000  # of these Pillow warns, on standard error; of larger ones it raises
    head = b"VP8L" + struct.pack("<I", 6) + b"\x2f" + struct.pack("<I", (side - 1) | (side - 1) << 14) + b"\0"
    data = b"RIFF" + struct.pack("<I", 4 + len(head)) + b"WEBP" + head
    script = (
        "from genrep.shards import codec\n"
        f"try:\n    codec.decode({data!r}, channels=1)\n"
        "except codec.DataError as error:\n    print(error)\n"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert result.stdout == f"declares {side} x {side} pixels, more than {codec.MAX_PIXELS:,} are not read\n"
    assert result.stderr == ""


def verdict(look, data, shape):
    try:
        look(data, np.empty(shape, np.uint8))
    except DataError:
        return "damaged"
    return "whole"


@pytest.mark.parametrize(("format", "channels"), [("jpg", 3), ("jpg", 1), ("png", 3), ("webp", 3)])
def test_a_check_finds_damage_where_decoding_finds_it_and_nowhere_else(format, channels):
    draws = np.random.default_rng(0)
    slopes = np.arange(31 * 29 * channels).reshape(1, 31, 29, channels) // 7 % 256
    (whole,) = codec.encode(slopes.astype(np.uint8), format=format)
    verdicts = []
    for _ in range(300):
        damaged = bytearray(whole)
        place = int(draws.integers(len(whole)))
        if draws.random() < 0.5:
            damaged[place] = int(draws.integers(256))
        else:
            del damaged[place : place + int(draws.integers(1, 20))]
        found, expected = (verdict(look, bytes(damaged), slopes.shape[1:]) for look in (codec.check, codec.decode_into))
        assert found == expected, (place, damaged)
        verdicts.append(found)
    assert verdict(codec.check, whole, slopes.shape[1:]) == "whole"
    assert "damaged" in verdicts
