//! Decompresses a delivery within a size limit, so that a small body cannot fill the memory.

use std::io::Read;

use flate2::read::MultiGzDecoder;

/// Why a body could not be decompressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InflateError {
    /// The body is not gzip, or it is truncated or damaged.
    #[error("the content encoding is gzip, but the body is not valid gzip")]
    NotGzip,
    /// The decompressed body exceeds the limit; nothing beyond the limit was decompressed.
    #[error("the decompressed body has more than {limit} bytes")]
    TooLarge {
        /// The limit in bytes.
        limit: usize,
    },
}

/// Decompresses all members of a gzip body, up to `limit` bytes.
///
/// # Errors
/// Both variants: do not ask the sender to retry, since it would send the same bytes again.
pub fn gunzip(packed: &[u8], limit: usize) -> Result<Vec<u8>, InflateError> {
    // One byte more than allowed distinguishes "at the limit" from "over the limit".
    let ceiling = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
    let mut unpacked = Vec::new();
    MultiGzDecoder::new(packed)
        .take(ceiling)
        .read_to_end(&mut unpacked)
        .map_err(|_| InflateError::NotGzip)?;
    if unpacked.len() > limit {
        return Err(InflateError::TooLarge { limit });
    }
    Ok(unpacked)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn gzip_data_of_one_or_several_members_is_decompressed() {
        assert_eq!(gunzip(&gzip(b"one"), 100).unwrap(), b"one");
        let members = [gzip(b"one, "), gzip(b""), gzip(b"two")].concat();
        assert_eq!(gunzip(&members, 100).unwrap(), b"one, two");
    }

    #[test]
    fn the_limit_itself_is_allowed_and_one_byte_more_is_not() {
        assert_eq!(gunzip(&gzip(&[7; 100]), 100).unwrap().len(), 100);
        let over = gunzip(&gzip(&[7; 101]), 100);
        assert_eq!(over, Err(InflateError::TooLarge { limit: 100 }));
        let members = [gzip(&[7; 60]), gzip(&[7; 60])].concat();
        assert_eq!(
            gunzip(&members, 100),
            Err(InflateError::TooLarge { limit: 100 })
        );
    }

    #[test]
    fn data_that_is_not_gzip_or_is_truncated_or_damaged_is_rejected() {
        let whole = gzip(b"a body of some length, a body of some length");
        let mut damaged = whole.clone();
        let checksum = damaged.len() - 8;
        damaged[checksum] ^= 1;
        let trailed = [whole.as_slice(), b"more"].concat();
        for bytes in [
            b"".as_slice(),
            b"{}",
            &whole[..whole.len() - 1],
            &damaged,
            &trailed,
        ] {
            assert_eq!(gunzip(bytes, 100), Err(InflateError::NotGzip), "{bytes:?}");
        }
    }
}
