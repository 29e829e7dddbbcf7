"""Croissant (MLCommons, format 1.0): what is in a set, in JSON-LD that search engines and loaders understand."""

from typing import Any

from genrep.shards.layout import layout_of
from genrep.shards.manifest import Manifest
from genrep.shards.readme import origin, plain, title

CROISSANT = "croissant.json"
_MIME = {"png": "image/png", "jpg": "image/jpeg", "webp": "image/webp"}
_OWN = (
    "citeAs column equivalentProperty extract field fileProperty fileObject fileSet format includes isLiveDataset "
    "jsonPath key md5 parentField path recordSet references regex repeated replace samplingRate separator source "
    "subField transform"
)
# the context of the specification
_CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "sc": "https://schema.org/",
    **{name: f"cr:{name}" for name in _OWN.split()},
}


def croissant(manifest: Manifest) -> dict[str, Any]:
    """One file object a tar with its sha256; a file set and a record set for each image and for the labels.

    A record is a sample's key with the image, or with the label; keys join them. Latents are a file set alone, since
    Croissant reads no npy. (mlcroissant keeps what it unpacked under the tar's name, whatever set it is of: who reads
    two sets on one machine gives each a CROISSANT_CACHE of its own.)
    """
    layout = layout_of(manifest.recipe)
    tars = [
        {
            "@type": "cr:FileObject",
            "@id": shard.name,
            "name": shard.name,
            "contentUrl": shard.name,
            "contentSize": f"{shard.bytes} B",
            "encodingFormat": "application/x-tar",
            "sha256": shard.sha256,
        }
        for shard in manifest.shards
    ]
    images = [member.partition(".")[0] for member in layout.members[: layout.num_images]]
    mime = _MIME[layout.image_format]
    file_sets = [_file_set(name, f"*.{name}.{layout.image_format}", mime, tars) for name in images]
    file_sets += [
        _file_set("label", "*.cls", "text/plain", tars),
        _file_set("latents", "*.latents.npy", "application/octet-stream", tars),
    ]
    records = [_record_set(name, "sc:ImageObject") for name in images] + [_record_set("label", "sc:Text")]
    return {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "name": f"genrep-{plain(str(_source_name(manifest)))}".replace(" ", "-"),
        "description": f"{title(manifest)}. {origin(manifest)}".replace("\n", " ").replace("`", ""),
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "license": plain(manifest.licence or "not stated"),
        "citeAs": "Jahanian et al., Generative Models as a Data Source for Multiview Representation Learning, 2022",
        "version": "1.0.0",
        "distribution": [*tars, *file_sets],
        "recordSet": records,
    }


def _source_name(manifest: Manifest) -> Any:
    part = manifest.recipe.get("generator") or manifest.recipe.get("source") or {}
    return part.get("name", "set") if isinstance(part, dict) else "set"


def _file_set(name: str, pattern: str, mime: str, tars: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "@type": "cr:FileSet",
        "@id": f"{name}-files",
        "name": f"{name}-files",
        "containedIn": [{"@id": tar["@id"]} for tar in tars],
        "encodingFormat": mime,
        "includes": pattern,
    }


def _record_set(name: str, data_type: str) -> dict[str, Any]:
    def field(part: str, kind: str, source: dict[str, Any]) -> dict[str, Any]:
        files = {"fileSet": {"@id": f"{name}-files"}}
        return {
            "@type": "cr:Field",
            "@id": f"{name}/{part}",
            "name": part,
            "dataType": kind,
            "source": {**files, **source},
        }

    key = {"extract": {"fileProperty": "filename"}, "transform": {"regex": r"^([0-9]{9})\..*$"}}
    return {
        "@type": "cr:RecordSet",
        "@id": name,
        "name": name,
        "field": [
            field("key", "sc:Text", key),
            field("content", data_type, {"extract": {"fileProperty": "content"}}),
        ],
    }
