//! Hands inputs to the target that `RDB_FUZZ_TARGET` names.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rdb_tests::fuzz::{Target, target};
use std::sync::OnceLock;

static TARGET: OnceLock<&Target> = OnceLock::new();

fuzz_target!(
    init: {
        let name = std::env::var("RDB_FUZZ_TARGET").expect("RDB_FUZZ_TARGET names a target: scripts/fuzz sets it");
        let named = target(&name).unwrap_or_else(|| panic!("there is no target {name}"));
        TARGET.set(named).expect("nothing else sets it");
    },
    |data: &[u8]| {
        (TARGET.get().expect("it was set at the start").run)(data);
    }
);
