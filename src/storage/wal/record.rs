//! RocksDB's log format, read by ourselves: finds out whether a log file is whole, torn at its end, or rotten.
//!
//! The format (`db/log_format.h`): blocks of 32 KiB; in a block physical records of masked crc32c ‖ length u16 ‖ type ‖
//! payload, little-endian; fewer than 7 bytes at the end of a block are filler. A batch is one `full` record or `first`,
//! any number of `middle`, `last`; all but the last piece fill their block. Hence every block begins with a record.
//!
//! The judgement rests on one promise of the writer: a record is synced before the next is begun. A crash can therefore
//! damage the last batch alone, by losing whole sectors of it, in any order. Anything else is rot:
//! - a whole record, or the first piece of one, behind the damage;
//! - a damaged record that is whole but for its length field, or but for one bit: no lost sector does that. Without this
//!   rule a flipped bit in the last batch, perhaps an acknowledged vote, would look like a torn tail and be dropped.
//!
//! The edits of a MANIFEST are the exception: RocksDB writes those of one change, a flush and the end of the log that it
//! makes obsolete, as records of their own and syncs them together. There whole records behind the damage are of the same
//! change when the damage is what lost sectors leave, zeros up to a sector's edge, and so little follows that it was under way
//! at once.
//!
//! Where a record may begin behind the damage: at every block start and wherever a walk from there leads. Inside a
//! damaged block the positions are unknown, and a user's value may hold the bytes of a valid record; so there a
//! candidate counts only when it holds a write batch whose sequence number continues this very log. A value with bytes of
//! another log, or of an earlier part of this one, never turns an honest torn tail into rot.

pub(super) const BLOCK_BYTES: usize = 32 * 1024;
const HEADER_BYTES: usize = 7;
const RECYCLABLE_HEADER_BYTES: usize = 11;
/// What a disk writes whole or not at all.
const SECTOR_BYTES: usize = 512;
/// The edits of one change take up less than this.
const CHANGE_BYTES_MAX: usize = 4096;
/// Fewer zeros at a sector's edge may be an edit's own.
const LOST_BYTES_MIN: usize = 4;
/// Sequence number (8 bytes) and count (4 bytes) at the head of a write batch.
const BATCH_HEADER_BYTES: usize = 12;
/// How far sequence numbers may run on inside one damaged block: its own changes, and buffered ones that are in no log.
const SEQUENCES_AHEAD_MAX: u64 = 1 << 22;
/// A record type with this bit may be skipped by a reader that does not know it.
const SAFE_TO_IGNORE: u8 = 1 << 7;
/// The reflected polynomial of crc32c.
const CRC32C_POLYNOMIAL: u32 = 0x82F6_3B78;

/// What a log file's records hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Contents {
    /// Write batches (a write-ahead log).
    Batches,
    /// Version edits (a MANIFEST).
    Edits,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Verdict {
    Whole,
    /// The last batch, from this offset to the end of the file, did not get to disk in full.
    Torn {
        from: usize,
    },
    Rotten {
        at: usize,
        why: String,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Part {
    Full,
    First,
    Middle,
    Last,
    /// Says something about the file, and stands between batches.
    Note,
    Unknown(u8),
}

struct Record<'a> {
    part: Part,
    payload: &'a [u8],
    end: usize,
}

/// Judges the log file with this content and number.
pub(super) fn judge(file: &[u8], number: u64, contents: Contents) -> Verdict {
    let mut offset = 0;
    let mut batch: Option<(usize, Vec<u8>)> = None;
    let mut next_sequence = None;
    while offset < file.len() {
        if block_left(offset) < HEADER_BYTES {
            offset += block_left(offset);
            continue;
        }
        let Some(record) = record_at(file, offset, number) else {
            if let Some(next) = padding_end(file, offset, number) {
                offset = next;
                continue;
            }
            return judge_damage(file, number, contents, offset, batch.map(|(start, _)| start), next_sequence);
        };
        match (record.part, &mut batch) {
            (Part::Full, None) => next_sequence = sequence_after(record.payload).or(next_sequence),
            (Part::First, None) => batch = Some((offset, head(record.payload))),
            (Part::Middle, Some((_, begun))) => begun.extend(head(record.payload)),
            (Part::Last, Some((_, begun))) => {
                begun.extend(head(record.payload));
                next_sequence = sequence_after(begun).or(next_sequence);
                batch = None;
            }
            (Part::Note, None) => {}
            (Part::Unknown(kind), _) => {
                return Verdict::Rotten { at: offset, why: format!("a record of unknown type {kind}") };
            }
            (Part::Full | Part::First | Part::Note, Some((start, _))) => {
                let why = format!("the batch that begins here has no end, and another record follows at byte {offset}");
                return Verdict::Rotten { at: *start, why };
            }
            (Part::Middle | Part::Last, None) => {
                return Verdict::Rotten { at: offset, why: "a batch without its beginning".to_string() };
            }
        }
        offset = record.end;
    }
    match batch {
        Some((start, _)) => Verdict::Torn { from: start },
        None => Verdict::Whole,
    }
}

/// Judges a file whose record at `damage` cannot be read.
fn judge_damage(
    file: &[u8],
    number: u64,
    contents: Contents,
    damage: usize,
    batch_start: Option<usize>,
    next_sequence: Option<u64>,
) -> Verdict {
    if let Some(why) = written_whole(file, damage) {
        return Verdict::Rotten { at: damage, why };
    }
    match later_record(file, number, contents, damage, next_sequence) {
        Some(later) if contents == Contents::Edits && is_of_a_change_under_way(file, damage, later) => {
            Verdict::Torn { from: batch_start.unwrap_or(damage) }
        }
        Some(later) => {
            Verdict::Rotten { at: damage, why: format!("not a whole record, and another follows at byte {later}") }
        }
        None => Verdict::Torn { from: batch_start.unwrap_or(damage) },
    }
}

/// Whether the damage before `later` is a lost sector in the last edits of a MANIFEST.
fn is_of_a_change_under_way(file: &[u8], damage: usize, later: usize) -> bool {
    let first_sector = damage - damage % SECTOR_BYTES;
    let is_lost = |sector: usize| {
        let part = &file[sector.max(damage)..(sector + SECTOR_BYTES).min(later)];
        part.len() >= LOST_BYTES_MIN && part.iter().all(|&byte| byte == 0)
    };
    file.len() - damage <= CHANGE_BYTES_MAX && (first_sector..later).step_by(SECTOR_BYTES).any(is_lost)
}

fn block_left(offset: usize) -> usize {
    BLOCK_BYTES - offset % BLOCK_BYTES
}

/// The end of the bytes that the record at `offset` may occupy.
fn room_end(file: &[u8], offset: usize) -> usize {
    (offset + block_left(offset)).min(file.len())
}

fn u32_at(file: &[u8], offset: usize) -> u32 {
    u32::from_le_bytes(file[offset..offset + 4].try_into().expect("a slice of four bytes"))
}

fn length_at(file: &[u8], offset: usize) -> usize {
    usize::from(u16::from_le_bytes([file[offset + 4], file[offset + 5]]))
}

fn mask(crc: u32) -> u32 {
    crc.rotate_right(15).wrapping_add(0xA282_EAD8)
}

fn unmask(masked: u32) -> u32 {
    masked.wrapping_sub(0xA282_EAD8).rotate_left(15)
}

/// The physical record at `offset`, when its checksum holds.
fn record_at(file: &[u8], offset: usize, number: u64) -> Option<Record<'_>> {
    let room = room_end(file, offset);
    if room < offset + HEADER_BYTES {
        return None;
    }
    let kind = file[offset + 6];
    let recyclable = matches!(kind, 5..=8 | 11 | 131);
    let header = if recyclable { RECYCLABLE_HEADER_BYTES } else { HEADER_BYTES };
    let start = offset + header;
    let end = start + length_at(file, offset);
    if end > room || kind == 0 {
        return None;
    }
    if unmask(u32_at(file, offset)) != crc32c::crc32c(&file[offset + 6..end]) {
        return None;
    }
    // A recycled file holds records of its former life, told by the number. This store recycles none.
    if recyclable && u64::from(u32_at(file, offset + HEADER_BYTES)) != number & u64::from(u32::MAX) {
        return None;
    }
    let part = match kind {
        1 | 5 => Part::Full,
        2 | 6 => Part::First,
        3 | 7 => Part::Middle,
        4 | 8 => Part::Last,
        9..=11 => Part::Note,
        _ if kind & SAFE_TO_IGNORE != 0 => Part::Note,
        _ => Part::Unknown(kind),
    };
    Some(Record { part, payload: &file[start..end], end })
}

/// Before a note that does not fit, the writer fills the block with zeros. The end of such a filling at `offset`.
fn padding_end(file: &[u8], offset: usize, number: u64) -> Option<usize> {
    let next = offset + block_left(offset);
    if next >= file.len() || file[offset..next].iter().any(|&byte| byte != 0) {
        return None;
    }
    record_at(file, next, number).filter(|record| record.part == Part::Note).map(|_| next)
}

fn head(payload: &[u8]) -> Vec<u8> {
    payload[..payload.len().min(BATCH_HEADER_BYTES)].to_vec()
}

fn batch_header(batch: &[u8]) -> Option<(u64, u32)> {
    let sequence = u64::from_le_bytes(batch.get(..8)?.try_into().ok()?);
    let count = u32::from_le_bytes(batch.get(8..BATCH_HEADER_BYTES)?.try_into().ok()?);
    Some((sequence, count))
}

/// The sequence number after this write batch.
fn sequence_after(batch: &[u8]) -> Option<u64> {
    batch_header(batch).map(|(sequence, count)| sequence.saturating_add(u64::from(count)))
}

/// Says why the unreadable record at `offset` was once written whole, if that can be proved.
fn written_whole(file: &[u8], offset: usize) -> Option<String> {
    let room = room_end(file, offset);
    if room < offset + HEADER_BYTES {
        return None;
    }
    let stored = u32_at(file, offset);
    if file[offset + 6] != 0 && other_length(&file[offset + 6..room], unmask(stored)) {
        return Some("a record whose length field is damaged".to_string());
    }
    let end = offset + HEADER_BYTES + length_at(file, offset);
    if end > room {
        return None;
    }
    let wanted = mask(crc32c::crc32c(&file[offset + 6..end]));
    let turned_at = if (stored ^ wanted).is_power_of_two() {
        offset + usize::try_from((stored ^ wanted).trailing_zeros() / 8).expect("below four")
    } else {
        offset + 6 + turned_bit(unmask(stored) ^ unmask(wanted), end - offset - 6)?
    };
    // A lost sector that should hold a single bit looks the same, but then it holds nothing else of the record either.
    let sector = turned_at - turned_at % SECTOR_BYTES;
    let persisted = file[sector.max(offset)..(sector + SECTOR_BYTES).min(end)].iter().any(|&byte| byte != 0);
    persisted.then(|| format!("a record with one flipped bit, at byte {turned_at}"))
}

/// Whether the checksum holds for the type and some length of payload.
fn other_length(type_and_payload: &[u8], stored: u32) -> bool {
    let mut crc = 0;
    type_and_payload.iter().any(|&byte| {
        crc = crc32c::crc32c_append(crc, &[byte]);
        crc == stored
    })
}

/// The index of the byte in which one turned bit explains this difference of checksums over `bytes` bytes.
fn turned_bit(difference: u32, bytes: usize) -> Option<usize> {
    // Turning the bit that the checksum takes in last changes it by the polynomial; each bit before, by one more step.
    let mut change = CRC32C_POLYNOMIAL;
    for index in (0..bytes).rev() {
        for _bit in 0..8 {
            if change == difference {
                return Some(index);
            }
            change = (change >> 1) ^ if change & 1 == 1 { CRC32C_POLYNOMIAL } else { 0 };
        }
    }
    None
}

/// The first position behind `damage` at which something other than a piece of the damaged batch begins.
fn later_record(
    file: &[u8],
    number: u64,
    contents: Contents,
    damage: usize,
    next_sequence: Option<u64>,
) -> Option<usize> {
    let mut position = damage;
    loop {
        let block_end = room_end(file, position);
        let found = (position + 1..block_end).find(|&at| begins_a_record(file, number, contents, at, next_sequence));
        if found.is_some() {
            return found;
        }
        position = block_end;
        // From a block start on, records are where they say they are.
        loop {
            if position >= file.len() {
                return None;
            }
            if block_left(position) < HEADER_BYTES {
                position += block_left(position);
                continue;
            }
            match record_at(file, position, number) {
                Some(Record { part: Part::Middle | Part::Last, end, .. }) => position = end,
                Some(_) => return Some(position),
                None => break,
            }
        }
    }
}

/// Whether a record that continues this log begins at `at`, a position that nothing vouches for.
fn begins_a_record(file: &[u8], number: u64, contents: Contents, at: usize, next_sequence: Option<u64>) -> bool {
    // The cheap tests first: this runs for every byte of a damaged block.
    let room = room_end(file, at);
    if room < at + HEADER_BYTES || !matches!(file[at + 6], 1 | 2) {
        return false;
    }
    let start = at + HEADER_BYTES;
    let end = start + length_at(file, at);
    let fills_block = end == at + block_left(at);
    if end > room || (file[at + 6] == 2 && !fills_block) {
        return false;
    }
    let continues = match contents {
        Contents::Edits => end > start,
        Contents::Batches => batch_header(&file[start..end]).is_some_and(|(sequence, _)| match next_sequence {
            Some(next) => sequence >= next && sequence - next < SEQUENCES_AHEAD_MAX,
            None => sequence > 0,
        }),
    };
    continues && record_at(file, at, number).is_some()
}

#[cfg(test)]
#[path = "record_tests.rs"]
mod tests;
