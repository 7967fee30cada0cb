//! Buffers of octets that are copied into TLS records, placed so that the copy is fast.
//!
//! `rep movsb` of AMD's Zen 3 and 4, by which glibc before 2.40 (its bug 30994) and the kernel copy large pieces, takes fifteen times as long
//! where the target begins 1 to 15 octets further on in its page than the source in its own: 16 KiB were measured to take 4.8 us there, and 0.3
//! elsewhere. rustls copies to 5 octets behind the begin of an allocation, and what is read at the begin of another meets that each time.

use bytes::{Buf, BufMut, BytesMut};

/// RFC 8446 §5.2.
const RECORD_HEADER: usize = 5;
/// Half a page: far from where allocations, files and the kernel's own buffers begin.
const AWAY: usize = 2 << 10;

/// An empty one with room for `room` octets, which go into records behind `before` others. Source and target are then multiples of 16 apart,
/// as any two allocations are.
pub(crate) fn large_piece(room: usize, before: usize) -> BytesMut {
    let offset = AWAY + RECORD_HEADER + before;
    let mut piece = BytesMut::with_capacity(offset + room);
    piece.put_bytes(0, offset);
    piece.advance(offset);
    piece
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_piece_has_its_room_and_lies_where_records_copies_lie() {
        for (room, before) in [(64 << 10, 0), ((64 << 10) - 9, 9), (4096, 0)] {
            let record = Vec::<u8>::with_capacity(20 << 10);
            let target = record.as_ptr().addr() + RECORD_HEADER + before;
            let mut piece = large_piece(room, before);
            let begin = piece.as_ptr().addr();
            assert_eq!(begin.abs_diff(target) % 16, 0);
            assert!(piece.is_empty() && piece.capacity() >= room);
            piece.put_bytes(1, room);
            assert_eq!((piece.as_ptr().addr(), piece.len()), (begin, room), "not moved");
        }
    }
}
