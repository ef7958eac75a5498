//! A file that somebody saved as the event of a function URL or of API Gateway, whatever it is.

#![no_main]

use libfuzzer_sys::fuzz_target;
use webhook_receiver::event::request;

fuzz_target!(|event: &[u8]| {
    if let Ok(event) = std::str::from_utf8(event) {
        let _ = request(event);
    }
});
