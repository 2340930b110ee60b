//! Integers with an N-bit prefix (RFC 7541 5.1).

/// An integer that is cut off, longer than five bytes after its prefix, or above 2^31.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// Decodes an integer whose prefix is the low `bits` of the first byte; advances `input` behind it.
#[inline]
pub fn decode(bits: u32, input: &mut &[u8]) -> Result<usize, Malformed> {
    let (&first, mut rest) = input.split_first().ok_or(Malformed)?;
    let prefix_max = (1u8 << (bits - 1) << 1).wrapping_sub(1);
    let mut value = u64::from(first & prefix_max);
    if first & prefix_max == prefix_max {
        let mut shift = 0;
        loop {
            let (&byte, next) = rest.split_first().ok_or(Malformed)?;
            rest = next;
            value += u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                break;
            }
            shift += 7;
            if shift > 28 {
                return Err(Malformed);
            }
        }
        if value > 1 << 31 {
            return Err(Malformed);
        }
    }
    *input = rest;
    Ok(value as usize)
}

/// Appends `value` with an N-bit prefix under the high bits of `first`.
pub fn encode(bits: u32, first: u8, value: usize, out: &mut Vec<u8>) {
    let prefix_max = (1usize << bits) - 1;
    if value < prefix_max {
        out.push(first | value as u8);
        return;
    }
    out.push(first | prefix_max as u8);
    let mut rest = value - prefix_max;
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn examples_of_the_rfc() {
        // RFC 7541 C.1: prefix bits, value, bytes
        let cases: [(u32, usize, &[u8]); 3] = [(5, 10, &[10]), (5, 1337, &[31, 154, 10]), (8, 42, &[42])];
        for (bits, value, bytes) in cases {
            let mut out = Vec::new();
            encode(bits, 0, value, &mut out);
            assert_eq!(out, bytes);
            assert_eq!(decode(bits, &mut &out[..]), Ok(value));
        }
    }

    #[test]
    fn every_prefix_round_trips_at_its_edges() {
        for bits in 1..=8 {
            for value in [0, 1, 126, 127, 128, 254, 255, 256, 16_383, 1 << 20, 1 << 31] {
                let mut out = Vec::new();
                encode(bits, 0, value, &mut out);
                assert_eq!(decode(bits, &mut &out[..]), Ok(value), "{bits} {value}");
            }
        }
    }

    #[test]
    fn long_cut_and_large_integers_are_refused() {
        let cases: [&[u8]; 5] = [
            &[],
            &[0x7f],
            &[0x7f, 0x80],
            &[0x7f, 0x80, 0x80, 0x80, 0x80, 0x80, 0x01],
            &[0x7f, 0xff, 0xff, 0xff, 0xff, 0x7f],
        ];
        for bytes in cases {
            assert_eq!(decode(7, &mut &bytes[..]), Err(Malformed), "{bytes:?}");
        }
    }
}
