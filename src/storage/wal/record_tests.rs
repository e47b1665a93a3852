//! Records of a write-ahead log, whole and damaged.

use proptest::prelude::*;

use super::*;

/// Writes log files as RocksDB does. Each batch is synced before the next, so what a crash can take is the last one.
#[derive(Default, Clone)]
struct Writer {
    file: Vec<u8>,
    sequence: u64,
    last_start: usize,
}

impl Writer {
    fn new(sequence: u64) -> Self {
        Self { sequence, ..Self::default() }
    }

    fn physical(&mut self, kind: u8, payload: &[u8]) {
        let mut typed = vec![kind];
        typed.extend_from_slice(payload);
        self.file.extend_from_slice(&mask(crc32c::crc32c(&typed)).to_le_bytes());
        self.file.extend_from_slice(&u16::try_from(payload.len()).unwrap().to_le_bytes());
        self.file.extend_from_slice(&typed);
    }

    fn batch(mut self, content: &[u8]) -> Self {
        let mut batch = self.sequence.to_le_bytes().to_vec();
        batch.extend_from_slice(&1_u32.to_le_bytes());
        batch.extend_from_slice(content);
        self.sequence += 1;
        let (mut rest, mut begun) = (batch.as_slice(), false);
        loop {
            let left = block_left(self.file.len());
            if left < HEADER_BYTES {
                self.file.extend(std::iter::repeat_n(0, left));
                continue;
            }
            if !begun {
                // Behind the filler of a block that has no room for a header.
                self.last_start = self.file.len();
            }
            let (piece, behind) = rest.split_at(rest.len().min(left - HEADER_BYTES));
            rest = behind;
            let kind = match (begun, rest.is_empty()) {
                (false, true) => 1,
                (false, false) => 2,
                (true, false) => 3,
                (true, true) => 4,
            };
            self.physical(kind, piece);
            begun = true;
            if rest.is_empty() {
                return self;
            }
        }
    }

    fn judge(&self) -> Verdict {
        judge(&self.file, 7, Contents::Batches)
    }
}

fn is_rotten(verdict: &Verdict) -> bool {
    matches!(verdict, Verdict::Rotten { .. })
}

/// Bytes without a zero sector, different at every place.
fn noise(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|at| u8::try_from((at * 31 + at / 256 * 7) % 251 + 1).unwrap()).collect()
}

#[test]
fn a_file_as_the_writer_left_it_is_whole() {
    let mut writer = Writer::new(1);
    assert_eq!(writer.judge(), Verdict::Whole);
    for bytes in [0, 10, 32_000, 700, 100_000, 32_768 - 7 - 12, 5] {
        writer = writer.batch(&noise(bytes));
        assert_eq!(writer.judge(), Verdict::Whole, "after a batch of {bytes} bytes");
    }
}

#[test]
fn a_file_cut_inside_its_last_batch_is_torn_at_that_batch() {
    let writer = Writer::new(1).batch(&noise(32_600)).batch(&noise(40)).batch(&noise(90));
    for length in writer.last_start + 1..writer.file.len() {
        let torn = judge(&writer.file[..length], 7, Contents::Batches);
        // In front of a batch that begins in a new block stands filler, which belongs to none.
        assert_eq!(torn, Verdict::Torn { from: writer.last_start }, "cut at {length}");
    }
    let long = Writer::new(1).batch(&noise(40)).batch(&noise(80_000));
    for length in (long.last_start + 1..long.file.len()).step_by(97) {
        let torn = judge(&long.file[..length], 7, Contents::Batches);
        assert_eq!(torn, Verdict::Torn { from: long.last_start }, "cut at {length}");
    }
}

#[test]
fn one_flipped_bit_is_rot_wherever_it_is_and_also_in_the_last_record() {
    let writer = Writer::new(300).batch(&noise(60)).batch(b"").batch(&noise(30));
    for bit in 0..writer.file.len() * 8 {
        let mut rotten = writer.clone();
        rotten.file[bit / 8] ^= 1 << (bit % 8);
        assert!(is_rotten(&rotten.judge()), "bit {bit}: {:?}", rotten.judge());
    }
}

#[test]
fn one_flipped_bit_in_a_batch_of_several_blocks_is_rot() {
    let writer = Writer::new(1).batch(&noise(60)).batch(&noise(70_000));
    let headers = (writer.last_start..writer.last_start + 7).chain(32_768..32_775).chain(65_536..65_543);
    for byte in headers.chain((0..writer.file.len()).step_by(4_999)) {
        for bit in 0..8 {
            let mut rotten = writer.clone();
            rotten.file[byte] ^= 1 << bit;
            assert!(is_rotten(&rotten.judge()), "byte {byte} bit {bit}: {:?}", rotten.judge());
        }
    }
}

#[test]
fn a_lost_sector_that_held_a_single_bit_of_the_last_batch_is_torn_and_not_a_flipped_bit() {
    let before = Writer::new(1).batch(&noise(100));
    let mut content = noise(SECTOR_BYTES * 2 - before.file.len() - HEADER_BYTES - BATCH_HEADER_BYTES);
    content.extend_from_slice(&[0, 0, 0, 4]);
    let writer = before.batch(&content);
    assert_eq!(writer.file.len(), SECTOR_BYTES * 2 + 4);
    let mut torn = writer.clone();
    torn.file[SECTOR_BYTES * 2..].fill(0);
    assert_eq!(torn.judge(), Verdict::Torn { from: writer.last_start });
    let mut rotten = writer;
    rotten.file[SECTOR_BYTES * 2 - 1] ^= 4;
    assert!(is_rotten(&rotten.judge()));
}

#[test]
fn damage_before_a_whole_record_is_rot_at_the_damage() {
    let damaged = Writer::new(1).batch(&noise(50)).batch(&noise(60)).batch(&noise(70));
    let second = 7 + 12 + 50;
    // Beyond one bit, so that only the record behind it tells.
    for range in [second..second + 7, second + 4..second + 12, second + 20..second + 40] {
        let mut rotten = damaged.clone();
        rotten.file[range.clone()].fill(0x5A);
        match rotten.judge() {
            Verdict::Rotten { at, why } => {
                assert_eq!(at, second, "{range:?}");
                assert!(why.contains(&damaged.last_start.to_string()), "{why}");
            }
            other => panic!("{range:?}: {other:?}"),
        }
    }
}

#[test]
fn damage_in_one_block_before_a_whole_record_in_a_later_one_is_rot() {
    let writer = Writer::new(1).batch(&noise(10)).batch(&noise(90_000)).batch(&noise(20));
    for range in [29..2_000, 40_000..41_000, 65_000..66_000, 70_000..90_000] {
        let mut rotten = writer.clone();
        rotten.file[range.clone()].fill(0);
        assert!(is_rotten(&rotten.judge()), "{range:?}: {:?}", rotten.judge());
    }
}

#[test]
fn zeros_at_the_end_are_cut_off_and_zeros_before_a_record_are_rot() {
    let writer = Writer::new(1).batch(&noise(50)).batch(&noise(60));
    let end = writer.file.len();
    for zeros in [1, 6, 7, 512, 100_000] {
        let mut longer = writer.clone();
        longer.file.extend(std::iter::repeat_n(0, zeros));
        assert_eq!(longer.judge(), Verdict::Torn { from: end }, "{zeros} zeros");
    }
    let mut hole = writer.clone();
    hole.file.extend(std::iter::repeat_n(0, 512));
    assert!(is_rotten(&hole.clone().batch(&noise(5)).judge()), "in the same block");
    hole.file.resize(BLOCK_BYTES, 0);
    assert!(is_rotten(&hole.batch(&noise(5)).judge()), "in the next block");
}

#[test]
fn filling_before_a_note_is_no_damage() {
    let mut writer = Writer::new(1).batch(&noise(50));
    writer.file.resize(BLOCK_BYTES, 0);
    writer.physical(130, b"about the log before");
    assert_eq!(writer.batch(&noise(9)).judge(), Verdict::Whole);
}

#[test]
fn a_whole_record_of_a_type_unknown_to_this_release_is_refused_and_not_cut_off() {
    let mut writer = Writer::new(1).batch(&noise(50));
    writer.physical(77, b"from the future");
    assert!(is_rotten(&writer.judge()));
}

#[test]
fn a_recycled_record_of_another_log_is_not_taken_for_one_of_this() {
    let mut typed = vec![5_u8];
    typed.extend_from_slice(&6_u32.to_le_bytes());
    typed.extend_from_slice(b"payload");
    let mut file = mask(crc32c::crc32c(&typed)).to_le_bytes().to_vec();
    file.extend_from_slice(&7_u16.to_le_bytes());
    file.extend_from_slice(&typed);
    assert_eq!(judge(&file, 6, Contents::Batches), Verdict::Whole);
    assert!(is_rotten(&judge(&file, 7, Contents::Batches)));
}

#[test]
fn records_of_this_log_inside_a_value_of_the_torn_last_batch_do_not_make_it_rot() {
    let earlier = Writer::new(5).batch(&noise(40)).batch(&noise(50));
    let foreign = Writer::new(9_000_000_000).batch(&noise(40));
    let mut value = noise(3_000);
    value.extend_from_slice(&earlier.file);
    value.extend_from_slice(&foreign.file);
    value.extend_from_slice(&noise(30_000));
    value.extend_from_slice(&earlier.file);
    let writer = earlier.batch(&value);
    for lost in [writer.last_start..512, 512..1_024, 2_048..3_072] {
        let mut torn = writer.clone();
        torn.file[lost.clone()].fill(0);
        assert_eq!(torn.judge(), Verdict::Torn { from: writer.last_start }, "lost {lost:?}");
    }
}

#[test]
fn a_last_batch_behind_the_filler_of_a_block_is_torn_from_where_it_begins() {
    let before = BLOCK_BYTES - HEADER_BYTES - BATCH_HEADER_BYTES - 6;
    let mut torn = Writer::new(1).batch(&noise(before)).batch(&noise(2_000));
    assert_eq!(torn.last_start, BLOCK_BYTES, "six bytes are left of the first block");
    torn.file[BLOCK_BYTES..BLOCK_BYTES + SECTOR_BYTES].fill(0);
    assert_eq!(torn.judge(), Verdict::Torn { from: BLOCK_BYTES });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn a_last_batch_that_lost_any_sectors_in_any_order_is_torn_and_never_rot(
        before in 0_usize..40_000,
        content in proptest::collection::vec(any::<u8>(), 0..80_000),
        lost in proptest::collection::vec(proptest::bool::weighted(0.3), 200),
        cut in 0_usize..100_000,
    ) {
        let synced = Writer::new(1).batch(&noise(before));
        let writer = synced.clone().batch(&content);
        let mut torn = writer.file.clone();
        for (sector, _) in lost.iter().enumerate().filter(|(_, lost)| **lost) {
            let range = (sector * SECTOR_BYTES).max(synced.file.len())..((sector + 1) * SECTOR_BYTES).min(torn.len());
            if !range.is_empty() {
                torn[range].fill(0);
            }
        }
        torn.truncate(cut.max(synced.file.len()));
        match judge(&torn, 7, Contents::Batches) {
            Verdict::Torn { from } => prop_assert_eq!(from, writer.last_start),
            Verdict::Whole => prop_assert!(torn == writer.file || torn.len() == synced.file.len() || torn.len() <= writer.last_start),
            rotten => prop_assert!(false, "{:?}", rotten),
        }
    }

    #[test]
    fn judging_never_panics(file in proptest::collection::vec(any::<u8>(), 0..2_000), number in any::<u64>()) {
        judge(&file, number, Contents::Batches);
        judge(&file, number, Contents::Edits);
    }
}

/// A MANIFEST of synced edits, and two more of one change that were under way; with where these begin and end.
fn manifest() -> (Writer, [usize; 3]) {
    let mut writer = Writer::new(1);
    while writer.file.len() < 900 {
        writer.physical(1, &[0xA5; 90]);
    }
    let flush = writer.file.len();
    writer.physical(1, &[0x5A; 110]);
    let obsolete = writer.file.len();
    writer.physical(1, &[0x3C; 6]);
    let end = writer.file.len();
    assert!(flush < 1024 && obsolete > 1024, "the first of them lies in two sectors: {flush} to {obsolete}");
    (writer, [flush, obsolete, end])
}

#[test]
fn edits_of_a_change_that_was_under_way_are_torn_whichever_sector_of_them_is_lost() {
    let (whole, [flush, obsolete, end]) = manifest();
    assert_eq!(judge(&whole.file, 7, Contents::Edits), Verdict::Whole);
    for lost in [flush..1024, 1024..obsolete, flush..obsolete] {
        let mut torn = whole.file.clone();
        torn[lost.clone()].fill(0);
        assert_eq!(judge(&torn, 7, Contents::Edits), Verdict::Torn { from: flush }, "{lost:?} of {flush} to {end}");
    }
}

#[test]
fn an_edit_that_is_damaged_otherwise_or_long_before_the_end_is_rot() {
    let (whole, [flush, obsolete, _]) = manifest();
    let mut rotten = whole.file.clone();
    rotten[flush + 20..flush + 30].fill(0x77);
    assert!(matches!(judge(&rotten, 7, Contents::Edits), Verdict::Rotten { at, .. } if at == flush));
    let mut rotten = whole.file.clone();
    rotten[flush + 20..flush + 40].fill(0);
    assert!(matches!(judge(&rotten, 7, Contents::Edits), Verdict::Rotten { .. }), "no sector has its edge there");
    let mut long = whole.clone();
    while long.file.len() < flush + CHANGE_BYTES_MAX {
        long.physical(1, &[0xA5; 90]);
    }
    long.file[1024..obsolete].fill(0);
    assert!(matches!(judge(&long.file, 7, Contents::Edits), Verdict::Rotten { at, .. } if at == flush));
}
