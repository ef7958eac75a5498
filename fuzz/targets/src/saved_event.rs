//! A file that somebody saved as the event of a function URL or of API Gateway, whatever it is.

use webhook_receiver::event::request;

/// Reads the event as the command does.
pub fn run(event: &[u8]) {
    if let Ok(event) = std::str::from_utf8(event) {
        let _ = request(event);
    }
}
