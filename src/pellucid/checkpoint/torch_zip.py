"""Where the records of a zip file lie: just enough of the format to map the tensors of `pytorch_model.bin`.

Nothing is unpacked, and names are only looked up, never used as paths. Records must be stored as they are,
inside the file, without overlap.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from pellucid.checkpoint.mapped import MappedFile
from pellucid.errors import FileError
from pellucid.files import MB, quoted

DIRECTORY_LIMIT = 64 * MB
"""Longest list of records, in bytes; each takes at least 46."""

_END = b"PK\x05\x06"
_END64_LOCATOR = b"PK\x06\x07"
_END64 = b"PK\x06\x06"
_CENTRAL = b"PK\x01\x02"
_LOCAL = b"PK\x03\x04"


class Record(NamedTuple):
    """One stored record of a zip file."""

    offset: int
    """First byte of its contents in the file."""
    size: int
    crc: int


def zip_records(file: MappedFile) -> dict[str, Record]:
    """All records of a zip file by name.

    Raises:
        FileError: not a whole zip file, a compressed or encrypted record, two of one name, or overlapping ones.
    """
    begin, size, count = _find_directory(file)
    records: dict[str, Record] = {}
    spans: list[tuple[int, int]] = []
    at = begin
    for _ in range(count):
        if at + 46 > begin + size or file.bytes[at : at + 4] != _CENTRAL:
            raise FileError(f"{file.path}: the list of records is damaged at byte {at:,}")
        name, header, record, length = _read_entry(file, at)
        if name in records:
            raise FileError(f"{file.path}: two records are named {quoted(name)}")
        records[name] = record = _locate(file, name, header, record)
        spans.append((header, record.offset + record.size))
        at += length
    if at != begin + size:
        raise FileError(f"{file.path}: the list of records has {begin + size - at:,} bytes too many")
    reached = 0
    for first, end in sorted(spans):
        if first < reached or end > begin:
            raise FileError(f"{file.path}: records overlap at byte {first:,}")
        reached = end
    return records


def _find_directory(file: MappedFile) -> tuple[int, int, int]:
    """First byte, length and number of entries of the list of records, from the file's last bytes."""
    end = file.bytes.rfind(_END, max(0, file.size - 22 - 65535))
    if end < 0 or end + 22 > file.size or end + 22 + _numbers(file, "<H", end + 20)[0] != file.size:
        raise FileError(f"{file.path}: the end of the zip file is missing; is the download complete?")
    count, size, begin = _numbers(file, "<HII", end + 10)
    limit = end
    if end >= 20 and file.bytes[end - 20 : end - 16] == _END64_LOCATOR:
        (limit,) = _numbers(file, "<Q", end - 12)
        if limit + 56 > end - 20 or file.bytes[limit : limit + 4] != _END64:
            raise FileError(f"{file.path}: the end of the zip file is damaged")
        count, size, begin = _numbers(file, "<QQQ", limit + 32)
    if begin + size > limit or size > DIRECTORY_LIMIT or count * 46 > size:
        raise FileError(f"{file.path}: the list of records ({count:,} in {size:,} bytes) does not fit into the file")
    return begin, size, count


def _numbers(file: MappedFile, form: str, offset: int) -> tuple[int, ...]:
    return struct.unpack_from(form, file.bytes, offset)


def _read_entry(file: MappedFile, at: int) -> tuple[str, int, Record, int]:
    """One entry of the list: name, where its record's header is, size and checksum, and the entry's own length."""
    flags, method, _, crc, packed, size, name_size, extra_size, comment_size = _numbers(file, "<HHIIIIHHH", at + 8)
    (header,) = _numbers(file, "<I", at + 42)
    length = 46 + name_size + extra_size + comment_size
    if at + length > file.size:
        raise FileError(f"{file.path}: the list of records is damaged at byte {at:,}")
    raw = bytes(file.bytes[at + 46 : at + 46 + name_size])
    try:
        name = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise FileError(f"{file.path}: a record's name is not UTF-8 text: {quoted(raw)}") from error
    extra = bytes(file.bytes[at + 46 + name_size : at + 46 + name_size + extra_size])
    if 0xFFFFFFFF in (size, packed, header):
        size, packed, header = _zip64_sizes(file, name, extra, size, packed, header)
    if method != 0 or flags & 1 or size != packed:
        raise FileError(f"{file.path}: {quoted(name)}: the record is compressed or encrypted, wanted plain storage")
    return name, header, Record(0, size, crc), length


def _zip64_sizes(file: MappedFile, name: str, extra: bytes, *sizes: int) -> list[int]:
    """Replace those of the sizes that are too large for 32 bits by the ones in the extra field."""
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<HH", extra, at)
        at += 4
        if kind == 1 and at + length <= len(extra):
            values = list(struct.unpack_from(f"<{length // 8}Q", extra, at))
            if len(values) >= sizes.count(0xFFFFFFFF):
                return [values.pop(0) if size == 0xFFFFFFFF else size for size in sizes]
        at += length
    raise FileError(f"{file.path}: {quoted(name)}: the record's size is missing")


def _locate(file: MappedFile, name: str, header: int, record: Record) -> Record:
    """Find where the contents begin, behind the record's own header, which must tell the same name."""
    if header + 30 > file.size or file.bytes[header : header + 4] != _LOCAL:
        raise FileError(f"{file.path}: {quoted(name)}: the record is not where the list says")
    name_size, extra_size = _numbers(file, "<HH", header + 26)
    offset = header + 30 + name_size + extra_size
    if file.bytes[header + 30 : header + 30 + name_size] != name.encode():
        raise FileError(f"{file.path}: {quoted(name)}: the record itself has another name")
    if offset + record.size > file.size:
        raise FileError(f"{file.path}: {quoted(name)}: the record ends behind the end of the file")
    return record._replace(offset=offset)
