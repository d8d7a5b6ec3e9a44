"""What kind of file this is, by its first bytes and never by its name."""

import zipfile
from pathlib import Path

SAFETENSORS = "safetensors"
TORCH = "torch"

_STARTS = (
    (b"\x93NUMPY", "a NumPy array (.npy)"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file (Keras or h5py)"),
    (b"\x89PNG", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"GIF8", "a GIF image"),
    (b"%PDF", "a PDF document"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"BZh", "a bzip2 archive"),
    (b"\xfd7zXZ", "an xz archive"),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive"),
    (b"Rar!", "a RAR archive"),
    (b"GGUF", "a GGUF model"),
    (b"PAR1", "a Parquet table"),
    (b"\x7fELF", "a compiled program"),
    (b"MZ", "a compiled program"),
    (b"version https://git-lfs", "a Git LFS pointer; fetch the file itself with: git lfs pull"),
)


def kind_of(path: Path) -> str:
    """Return `SAFETENSORS`, `TORCH` (zip archive or pickle of torch.save) or, for anything else, what the file looks like."""
    with path.open("rb") as handle:
        start = handle.read(512)
    size = path.stat().st_size
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") <= size - 8:
        return SAFETENSORS
    if start[:2] == b"PK":
        return _zip_kind(path)
    if start[0] == 0x80 and start[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return TORCH
    for magic, title in _STARTS:
        if start.startswith(magic):
            return title
    if start[257:262] == b"ustar":
        return "a tar archive"
    return _text_kind(start)


def _zip_kind(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except zipfile.BadZipFile:
        return "a zip archive that is cut short or damaged"
    if any(name.endswith("/constants.pkl") for name in names):
        return "a TorchScript program"
    if any(name == "data.pkl" or name.endswith("/data.pkl") for name in names):
        return TORCH
    if names and all(name.endswith(".npy") for name in names):
        return "NumPy arrays (.npz)"
    return "a zip archive without PyTorch tensors"


def _text_kind(start: bytes) -> str:
    try:
        text = start.decode("ascii").lstrip()
    except UnicodeDecodeError:
        return f"an unknown format (first bytes {start[:4].hex(' ')})"
    if text.startswith("<"):
        return "an HTML or XML page"
    return "a JSON text" if text.startswith(("{", "[")) else "a text file"
