#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| zvon::fuzz::schema_object(data));
