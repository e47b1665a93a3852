//! What a value looks like on the wire: its unique id, and with some of them padding, so that logs and snapshots have
//! volume. Histories hold the id alone; whatever was changed of the padding, or cut off it, shows as another id.

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// Bytes of a body that is no value of ours which are kept for the history.
const DAMAGED_SHOWN_MAX: usize = 80;

/// `id`, or `id`, the padding's length and the padding, with spaces between. An id has no space.
pub(super) fn body(id: &str, padding: usize) -> Bytes {
    if padding == 0 {
        return Bytes::copy_from_slice(id.as_bytes());
    }
    Bytes::from(format!("{id} {padding} {}", letters(id, padding)))
}

/// The id of a value that is exactly as it was sent; else words that are no id.
pub(super) fn id(body: &[u8]) -> String {
    whole_id(body).unwrap_or_else(|| {
        let shown = String::from_utf8_lossy(&body[..body.len().min(DAMAGED_SHOWN_MAX)]);
        format!("damaged value of {} bytes: {shown}", body.len())
    })
}

fn whole_id(body: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(body).ok()?;
    let Some((id, rest)) = text.split_once(' ') else { return Some(text.to_string()) };
    let (length, padding) = rest.split_once(' ')?;
    (length.parse() == Ok(padding.len()) && padding == letters(id, padding.len())).then(|| id.to_string())
}

/// Letters that follow from the id, so that padding of another value is not taken for this one's; random ones, so that
/// they take their room on the disk.
fn letters(id: &str, count: usize) -> String {
    let seed = id.bytes().fold(0_u64, |seed, byte| seed.wrapping_mul(257).wrapping_add(u64::from(byte)));
    let mut rng = StdRng::seed_from_u64(seed);
    (0..count).map(|_| char::from(rng.random_range(b'a'..=b'z'))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_that_came_back_as_it_was_sent_gives_its_id() {
        for padding in [0, 1, 10_000] {
            assert_eq!(id(&body("r17", padding)), "r17");
        }
        assert_eq!(id(b""), "", "an empty value is whole, and nobody's");
    }

    #[test]
    fn a_value_that_lost_or_changed_anything_is_nobodys() {
        let sent = body("r17", 100);
        let mut changed = sent.to_vec();
        changed[50] = changed[50].wrapping_add(1);
        let swapped = body("r18", 100).to_vec();
        let swapped = [&b"r17"[..], &swapped[3..]].concat();
        for bad in [&sent[..sent.len() - 1], &sent[..4], &[&sent[..], b"x"].concat(), &changed, &swapped, b"\xff"] {
            assert!(id(bad).contains("damaged"), "{:?}", String::from_utf8_lossy(bad));
        }
    }
}
