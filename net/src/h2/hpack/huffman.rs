//! The Huffman code of RFC 7541, appendix B.
//!
//! The code is canonical: within one length, codes ascend with their symbols, and every shorter code is less than every
//! longer one when both are aligned to the left. So the lengths alone define it. Decoding looks up the next 8 bits (all
//! usual characters have at most 8) and walks the lengths for the rest.

/// Code length of each symbol; 256 is EOS.
const LENGTHS: [u8; 257] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, // 0x00
    28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28, // 0x10
    6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, // 0x20
    5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10, // 0x30
    13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, // 0x40
    7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6, // 0x50
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, // 0x60
    6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28, // 0x70
    20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23, // 0x80
    24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, // 0x90
    22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, // 0xa0
    21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23, // 0xb0
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, // 0xc0
    19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27, // 0xd0
    20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, // 0xe0
    26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26, // 0xf0
    30, // EOS
];

const EOS: u16 = 256;
const LENGTH_MAX: usize = 30;

struct Tables {
    /// Code of each symbol, right-aligned.
    codes: [u32; 257],
    /// Symbols in the order of their codes.
    sorted: [u16; 257],
    /// Per length: the first code beyond this length, left-aligned to 32 bits; a window below it has at most this length.
    limit: [u64; LENGTH_MAX + 1],
    /// Per length: index into `sorted` of the first code, and that code.
    first: [(u16, u32); LENGTH_MAX + 1],
    /// By the next 8 bits: (symbol, length), or length 0 for longer codes.
    short: [(u8, u8); 256],
}

static TABLES: Tables = build();

const fn build() -> Tables {
    let mut t = Tables {
        codes: [0; 257],
        sorted: [0; 257],
        limit: [0; LENGTH_MAX + 1],
        first: [(0, 0); LENGTH_MAX + 1],
        short: [(0, 0); 256],
    };
    let (mut code, mut count, mut length) = (0u32, 0usize, 1usize);
    while length <= LENGTH_MAX {
        t.first[length] = (count as u16, code);
        let mut symbol = 0;
        while symbol < 257 {
            if LENGTHS[symbol] as usize == length {
                t.codes[symbol] = code;
                t.sorted[count] = symbol as u16;
                if length <= 8 {
                    let from = (code << (8 - length)) as usize;
                    let mut at = 0;
                    while at < 1 << (8 - length) {
                        t.short[from + at] = (symbol as u8, length as u8);
                        at += 1;
                    }
                }
                code += 1;
                count += 1;
            }
            symbol += 1;
        }
        t.limit[length] = (code as u64) << (32 - length);
        code <<= 1;
        length += 1;
    }
    t
}

/// EOS inside the string, or padding that is longer than 7 bits or not all ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// Appends what `input` decodes to. The output is at most 8/5 of the input.
pub fn decode(input: &[u8], out: &mut Vec<u8>) -> Result<(), Malformed> {
    let t = &TABLES;
    let (mut bits, mut have) = (0u64, 0u32); // the low `have` bits of `bits` are still to be decoded
    let mut rest = input.iter();
    loop {
        while have <= 32 {
            let Some(&byte) = rest.next() else { break };
            bits = bits << 8 | u64::from(byte);
            have += 8;
        }
        if have == 0 {
            return Ok(());
        }
        // The next 32 bits, filled up with ones as the padding is.
        let window = if have >= 32 {
            (bits >> (have - 32)) as u32
        } else {
            (bits << (32 - have)) as u32 | (u32::MAX >> have)
        };
        let (symbol, length) = t.short[(window >> 24) as usize];
        let (symbol, length) =
            if length > 0 { (u16::from(symbol), u32::from(length)) } else { decode_long(t, window) };
        if length > have || symbol == EOS {
            // RFC 7541 5.2: what remains must be the first bits of EOS, at most 7, all ones.
            let padding = (1u64 << have.min(8)) - 1;
            return if have <= 7 && bits & padding == padding { Ok(()) } else { Err(Malformed) };
        }
        out.push(symbol as u8);
        have -= length;
    }
}

fn decode_long(t: &Tables, window: u32) -> (u16, u32) {
    let mut length = 9;
    while u64::from(window) >= t.limit[length] {
        length += 1; // ends: limit[30] is 2^32
    }
    let (at, code) = t.first[length];
    let symbol = t.sorted[usize::from(at) + ((window >> (32 - length)) - code) as usize];
    (symbol, length as u32)
}

/// Bytes that `input` takes when encoded.
pub fn encoded_len(input: &[u8]) -> usize {
    let bits: usize = input.iter().map(|&b| usize::from(LENGTHS[usize::from(b)])).sum();
    bits.div_ceil(8)
}

/// Appends the code of `input`, padded with ones.
pub fn encode(input: &[u8], out: &mut Vec<u8>) {
    let (mut bits, mut have) = (0u64, 0u32);
    for &byte in input {
        let length = u32::from(LENGTHS[usize::from(byte)]);
        bits = bits << length | u64::from(TABLES.codes[usize::from(byte)]);
        have += length;
        while have >= 8 {
            have -= 8;
            out.push((bits >> have) as u8);
        }
    }
    if have > 0 {
        out.push((bits << (8 - have)) as u8 | (0xff >> have));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn codes_of_the_rfc() {
        // RFC 7541 appendix B: symbol, code, bits
        let cases = [
            (0, 0x1ff8, 13),
            (b' ' as usize, 0x14, 6),
            (b'0' as usize, 0x0, 5),
            (b'a' as usize, 0x3, 5),
            (b'Z' as usize, 0xfd, 8),
            (0xff, 0x3ff_ffee, 26),
            (249, 0xfff_fffe, 28),
            (256, 0x3fff_ffff, 30),
        ];
        for (symbol, code, bits) in cases {
            assert_eq!((TABLES.codes[symbol], LENGTHS[symbol]), (code, bits), "{symbol}");
        }
        assert_eq!(TABLES.limit[30], 1 << 32);
    }

    #[test]
    fn eos_and_bad_padding_are_refused() {
        type Row = (&'static [u8], Result<&'static [u8], Malformed>);
        let cases: [Row; 8] = [
            (b"", Ok(b"")),
            (&[0x1f], Ok(b"a")),                         // 00011 111
            (&[0x18], Err(Malformed)),                   // padding of zeroes
            (&[0xff], Err(Malformed)),                   // 8 bits of padding
            (&[0x1f, 0xff], Err(Malformed)),             // 11 bits of padding
            (&[0xff, 0xff, 0xff, 0xff], Err(Malformed)), // EOS and two bits
            (&[0xff, 0xff, 0xff, 0xfc], Err(Malformed)), // EOS, then zeroes
            (&[0xff, 0xff], Err(Malformed)),             // the beginning of a long code
        ];
        for (input, want) in cases {
            let mut out = Vec::new();
            assert_eq!(decode(input, &mut out).map(|()| &out[..]), want, "{input:x?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_round_trip(bytes: Vec<u8>) {
            let mut code = Vec::new();
            encode(&bytes, &mut code);
            prop_assert_eq!(code.len(), encoded_len(&bytes));
            let mut back = Vec::new();
            prop_assert_eq!(decode(&code, &mut back), Ok(()));
            prop_assert_eq!(back, bytes);
        }

        #[test]
        fn garbage_never_panics_and_grows_by_eight_fifths_at_most(bytes: Vec<u8>) {
            let mut out = Vec::new();
            let _ = decode(&bytes, &mut out);
            prop_assert!(out.len() <= bytes.len() * 8 / 5);
        }
    }
}
