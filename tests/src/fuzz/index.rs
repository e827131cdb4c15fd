//! Keys and values of the key index's tree.
//!
//! Input: length of the key (a byte), the key, the value.

use super::{Target, named};
use rdb_server::storage::reread_index_value;

pub(super) const TARGET: Target = Target {
    name: "index",
    what: "keys and values of the key index",
    run,
    seeds,
};

fn run(data: &[u8]) {
    let Some((length, rest)) = data.split_first() else {
        return;
    };
    let Some((key, value)) = rest.split_at_checked(usize::from(*length)) else {
        return;
    };
    if let Some(written) = reread_index_value(key, value) {
        let again = reread_index_value(key, &written);
        assert_eq!(again.as_ref(), Some(&written), "what was written reads back");
    }
}

fn seeds() -> Vec<(String, Vec<u8>)> {
    let input = |key: &[u8], value: &[u8]| [&[u8::try_from(key.len()).unwrap()], key, value].concat();
    // One byte is one number: version 1, seq 9, index 2, count 1; then runs of 3 and 1.
    let runs = [1, 9, 2, 1, 4, 1, 3, 0, 7, 1];
    let head = [&[0_u8], &runs[..]].concat();
    let large = [
        1, 0xff, 0xff, 0xff, 0xff, 0x0f, 0x80, 0x80, 0x80, 0x80, 0x80, 0x01, 0x90, 0x4e, 0x64,
    ];
    let mut cursor: Vec<u8> = [3_u64, 2, 9].iter().flat_map(|n| n.to_le_bytes()).collect();
    cursor.push(0);
    let cursor_held = [&cursor[..], &[7; 16]].concat();
    let mut meta: Vec<u8> = [40_u64, 3, 5].iter().flat_map(|n| n.to_le_bytes()).collect();
    meta.extend_from_slice(&0x1234_5678_u32.to_le_bytes());
    vec![
        named("head", input(b"kshop\0orders/17", &head)),
        named("head-large", input(b"kshop\0orders/17", &large)),
        named("chunk", input(b"vshop\0orders/17\0\0\0\0\0\0\0\0\x01", &runs)),
        named("applied", input(b"m", &meta)),
        named("cursor", input(b"smails", &cursor)),
        named("cursor-held", input(b"smails", &cursor_held)),
    ]
}
