//! A table of any bytes.
#![no_main]

#[path = "../hook.rs"]
mod hook;
#[path = "../reads.rs"]
#[allow(dead_code)]
mod reads;

use libfuzzer_sys::fuzz_target;

fuzz_target!(init: hook::install(), |bytes: &[u8]| reads::table(bytes));
