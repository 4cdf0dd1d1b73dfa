"""Prints the tables of a remote, from loose files and packs, written from docs/format.md alone: python3 zvon_reader.py FOLDER [SECRET]
The SECRET of an encrypted remote is a file, an age key or a passphrase; it needs the modules pyrage and cryptography."""
import hashlib, io, json, math, pathlib, re, struct, subprocess, sys, uuid
try: from compression.zstd import decompress   # Python 3.14; below, the zstandard module or else the zstd command
except ImportError:
    try: from zstandard import ZstdDecompressor; decompress = lambda data: ZstdDecompressor().decompress(data)
    except ImportError: decompress = lambda data: subprocess.run(["zstd", "-dcq"], input=data, stdout=subprocess.PIPE, check=True).stdout

ID = "([0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12})"
NAME, PACK = re.compile(ID + r"\.msgpack"), re.compile(ID + r"\.pack")
NUMBERS = dict(zip(range(0xCA, 0xD4), "fdBHIQbhiq"))
SIZED = {head: ("BHI"[n % 3], "bes"[n // 3]) for n, head in enumerate([*range(0xC4, 0xCA), 0xD9, 0xDA, 0xDB])}
SIZED |= {0xC1: ("", "never used"), 0xDC: ("H", "a"), 0xDD: ("I", "a"), 0xDE: ("H", "m"), 0xDF: ("I", "m")}
class Pairs(list): """A map, whose keys may be repeated."""

def need(good, why):
    if not good: raise ValueError(why)
def take(file, size):
    need(len(data := file.read(size)) == size, "it ends too early")
    return data
def number(file, form): return struct.unpack(">" + form, take(file, struct.calcsize(form)))[0]
def decode(file, depth=0):   # what JSON cannot hold is named: {"blob": hex}, {"text": hex}, {"real": "inf"}
    head = number(file, "B")
    if head < 0x80 or head >= 0xE0: return head if head < 0x80 else head - 0x100
    if head in (0xC0, 0xC2, 0xC3): return {0xC0: None, 0xC2: 0, 0xC3: 1}[head]
    if head in NUMBERS:
        if isinstance(value := number(file, NUMBERS[head]), int) or math.isfinite(value): return value
        return None if math.isnan(value) else {"real": str(value)}
    if head < 0xC0: size, kind = head & (0x1F if head >= 0xA0 else 0x0F), "mass"[(head - 0x80) >> 4]
    elif 0xD4 <= head <= 0xD8: size, kind = 1 << (head - 0xD4), "e"
    else: size, kind = (number(file, SIZED[head][0]) if head != 0xC1 else 0), SIZED[head][1]
    need(depth < 19 and kind in "amsbe", "it is nested too deep, or not MessagePack")
    if kind == "a": return [decode(file, depth + 1) for _ in range(size)]
    if kind == "m": return Pairs((decode(file, depth + 1), decode(file, depth + 1)) for _ in range(size))
    known, data = kind != "e" or number(file, "b") == 1, take(file, size)
    if kind == "b" or not known: return {"blob": data.hex()} if known else Pairs()   # no column holds either: refused alike
    try: return data.decode()
    except UnicodeDecodeError: return {"text": data.hex()}
def parts(record, *names):
    need(isinstance(record, list), "it is not a record")
    found = [[v for k, v in record if k == name] for name in names] if isinstance(record, Pairs) else [[v] for v in record]
    need([len(f) for f in found] == [1] * len(names), "a part is missing, or there twice")
    return [f[0] for f in found]
def lower(name): return re.sub("[A-Z]+", lambda letters: letters[0].lower(), name)   # ASCII alone, as SQLite does
def read(name, file):
    (change, fields), rest = parts(decode(file), "change", "fields"), file.read()
    id, author, table, entity, merged = parts(change, "id", "author_id", "entity_type", "entity_id", "merged")
    need(rest == b"" and id == name, "bytes follow its end, or its id differs from its name")
    need(type(fields) is list and 0 < len(fields) <= 32769, "it has no fields, or too many")
    fields = [parts(field, "field_name", "field_value") for field in fields]
    need(all(isinstance(text, str) for text in (author, table, entity, *(f for f, _ in fields))), "a name is not text")
    need(table and "\0" not in table and not lower(table).startswith(("zv_", "sqlite_")), "no table can have that name")
    need(len({lower(f) for f, _ in fields}) == len(fields), "two fields have one name")
    need(not any(isinstance(v, list) or isinstance(v, int) and v >> 63 > 0 for _, v in fields), "a value is none of a column's")
    return [((lower(table), entity), lower(f), (name, f, v)) for f, v in fields]
def unpack(file):   # the ids and files of a pack's changes
    start = take(file, 28)
    need(start[:12] == b"\x89ZVPACK\n\1\1\0\0", "it is no pack of this version")
    n, b, i, x = struct.unpack(">IIII", start[12:])
    need(0 < n <= 100_000 and 0 < b <= n and i <= 16 * n + 1024 and x <= 1 << 20, "a number is outside its range")
    rest = take(file, 44 * b + i + x)
    need(take(file, 32) == hashlib.sha256(start + rest).digest(), "the header's checksum is wrong")
    blocks = [struct.unpack(">III32s", rest[44 * k:44 * k + 44]) for k in range(b)]
    flat = decompress(rest[44 * b:44 * b + i])
    ids = [flat[k:k + 16] for k in range(0, len(flat), 16)]
    need(len(flat) == 16 * n == 16 * sum(block[0] for block in blocks) and ids == sorted(set(ids)), "the ids are not right")
    names = iter([str(uuid.UUID(bytes=id)) for id in ids])
    for records, stored, raw, checksum in blocks:
        need(hashlib.sha256(data := take(file, stored)).digest() == checksum, "a block's checksum is wrong")
        block = io.BytesIO(data := decompress(data))
        need(len(data) == raw, "a block has another length")
        yield from [(next(names), io.BytesIO(take(block, number(block, "I")))) for _ in range(records)]
        need(block.read() == b"", "a block's records do not end where it does")
    need(file.read() == b"", "bytes follow its end")
def unlock(file):   # a key file, by age
    import pyrage
    secret = pathlib.Path(sys.argv[2]).read_text().strip()
    keys = [pyrage.x25519.Identity.from_str(line) for line in secret.splitlines() if line.startswith("AGE-SECRET-KEY-")]
    return pyrage.decrypt(file, keys) if keys else pyrage.passphrase.decrypt(file, secret)
def epochs():   # the remote's identity, and the data keys of its epochs: the newest key file holds the older ones' too
    identity, keys = None, {}
    for path in sorted(REMOTE.glob("keys/*.age"), reverse=True):
        if path.stem in keys: continue
        form, identity, held = parts(decode(io.BytesIO(unlock(path.read_bytes()))), "format", "identity", "epochs")
        need(form == 1, "the key file is of another format")
        keys |= {id: bytes.fromhex(key["blob"]) for id, _, _, _, key in (parts(epoch, "epoch", "parents", "merge", "recipients", "key") for epoch in held)}
    return identity, keys
def content(path):   # an object's content: on an encrypted remote, opened chunk by chunk
    if not IS_ENCRYPTED: return path.open("rb")
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF
    sealed = path.read_bytes()
    need(sealed[:4] == b"ZVS\1" and len(sealed) >= 52, "it is not sealed")
    need((epoch := str(uuid.UUID(bytes=sealed[4:20]))) in KEYS, "its epoch is not known")
    key = HKDF(hashes.SHA256(), 32, sealed[20:36], b"zvon sealed object").derive(KEYS[epoch])
    bound = uuid.UUID(IDENTITY).bytes + sealed[4:20] + path.relative_to(REMOTE).as_posix().encode()
    chunks = [sealed[at:at + 65552] for at in range(36, len(sealed), 65552)]
    nonces = [bytes(7) + struct.pack(">IB", n, n + 1 == len(chunks)) for n in range(len(chunks))]
    try: return io.BytesIO(b"".join(ChaCha20Poly1305(key).decrypt(*part, bound) for part in zip(nonces, chunks)))
    except Exception: raise ValueError("its seal is broken") from None
def writes(path):
    if name := NAME.fullmatch(path.name): yield from read(name[1], content(path))
    if PACK.fullmatch(path.name): yield from (write for id, file in unpack(content(path)) for write in read(id, file))
REMOTE = pathlib.Path(sys.argv[1])
IS_ENCRYPTED = any(b"encryption" in path.read_bytes() for path in REMOTE.glob("identity/*"))
IDENTITY, KEYS = epochs() if IS_ENCRYPTED else (None, {})
need(not IS_ENCRYPTED or all(path.name == IDENTITY for path in REMOTE.glob("identity/*")), "an identity is not this remote's own")
rows, tables = {}, {}
for path in sorted(path for folder in ("changes", "packs") for path in REMOTE.glob(f"{folder}/*")):
    try:
        for row, column, write in list(writes(path)):   # the write of the greatest id wins
            if write[0] >= rows.setdefault(row, {}).setdefault(column, write)[0]: rows[row][column] = write
    except ValueError as why: print(f"{path.name} is refused: {why}", file=sys.stderr)
for (table, entity), row in rows.items():
    newest, deleted = max(row.values(), key=lambda write: write[0])[0], row.get("zv_deleted", ("", "", 0))
    if isinstance(deleted[2], int) and deleted[2] != 0 and deleted[0] == newest: continue
    tables.setdefault(table, {})[entity] = {f: v for c, (_, f, v) in row.items() if c not in ("zv_deleted", "zv_rowid")}
json.dump(tables, sys.stdout, indent=1, sort_keys=True)
