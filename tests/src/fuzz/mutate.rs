//! Changes of valid inputs, drawn from a seed: bits, bytes, numbers, lengths, cuts, and parts of other inputs.

use crate::random::Random;

/// An input is never made longer.
const BYTES_MAX: usize = 8 << 10;

/// Numbers at which readers err: around zero, around powers of two, and at the ends of types.
const NUMBERS: [u64; 12] = [
    0,
    1,
    0x7f,
    0x80,
    0xff,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    0x1_0000_0000,
    u64::MAX / 2,
    u64::MAX - 1,
    u64::MAX,
];

/// Changes inputs.
#[derive(Debug)]
pub struct Mutator<'a> {
    inputs: &'a [Vec<u8>],
    random: Random,
}

impl<'a> Mutator<'a> {
    /// Of these inputs, at least one.
    pub fn new(inputs: &'a [Vec<u8>], random: Random) -> Self {
        assert!(!inputs.is_empty(), "there is nothing to change");
        Self { inputs, random }
    }

    /// The next input: a kept one with one to six changes.
    pub fn next_input(&mut self) -> Vec<u8> {
        let mut bytes = self.any_input().to_vec();
        for _ in 0..=self.random.below(6) {
            self.change(&mut bytes);
        }
        bytes.truncate(BYTES_MAX);
        bytes
    }

    fn any_input(&mut self) -> &'a [u8] {
        &self.inputs[self.random.position(self.inputs.len())]
    }

    /// A place in the input, or its end.
    fn place(&mut self, bytes: &[u8]) -> usize {
        self.random.position(bytes.len() + 1)
    }

    /// A part of the input, short ones more often.
    fn part(&mut self, bytes: &[u8]) -> std::ops::Range<usize> {
        let start = self.place(bytes);
        let longest = match self.random.below(3) {
            0 => 1,
            1 => 16,
            _ => bytes.len() + 1,
        };
        let length = self.random.position(longest + 1).min(bytes.len() - start);
        start..start + length
    }

    fn number(&mut self) -> u64 {
        let near = NUMBERS[self.random.position(NUMBERS.len())];
        match self.random.below(4) {
            0 => near.wrapping_add(self.random.below(16)),
            1 => near.wrapping_sub(self.random.below(16)),
            2 => self.random.below(300),
            _ => near,
        }
    }

    fn change(&mut self, bytes: &mut Vec<u8>) {
        match self.random.below(11) {
            0 | 1 => self.flip_bit(bytes),
            2 => self.set_byte(bytes),
            3 => bytes.truncate(self.place(bytes)),
            4 => drop(bytes.drain(self.part(bytes))),
            5 => self.repeat(bytes),
            6 => self.splice(bytes),
            7 => self.set_number(bytes),
            8 => self.set_varint(bytes),
            9 => self.change_length(bytes),
            _ => self.set_digits(bytes),
        }
    }

    fn flip_bit(&mut self, bytes: &mut [u8]) {
        if !bytes.is_empty() {
            let at = self.random.position(bytes.len());
            bytes[at] ^= 1 << self.random.below(8);
        }
    }

    fn set_byte(&mut self, bytes: &mut [u8]) {
        if !bytes.is_empty() {
            let at = self.random.position(bytes.len());
            bytes[at] = self.random.next().to_le_bytes()[0];
        }
    }

    /// A part stands twice, perhaps elsewhere.
    fn repeat(&mut self, bytes: &mut Vec<u8>) {
        let part = bytes[self.part(bytes)].to_vec();
        let at = self.place(bytes);
        bytes.splice(at..at, part);
    }

    /// A part of another input takes the place of one of this.
    fn splice(&mut self, bytes: &mut Vec<u8>) {
        let other = self.any_input();
        let part = other[self.part(other)].to_vec();
        let place = self.part(bytes);
        bytes.splice(place, part);
    }

    /// A number of 1, 2, 4 or 8 bytes, little endian.
    fn set_number(&mut self, bytes: &mut [u8]) {
        let width = 1 << self.random.below(4);
        if bytes.len() >= width {
            // Formats of disks are aligned: half of the time the place is, too.
            let mut at = self.random.position(bytes.len() - width + 1);
            if self.random.one_in(2) {
                at -= at % width;
            }
            bytes[at..at + width].copy_from_slice(&self.number().to_le_bytes()[..width]);
        }
    }

    /// A number as protobuf writes it, in place of one.
    fn set_varint(&mut self, bytes: &mut Vec<u8>) {
        let start = self.random.position(bytes.len() + 1);
        let is_inner = |byte: &u8| byte & 0x80 != 0;
        let inner = bytes[start..].iter().take_while(|byte| is_inner(byte)).count();
        let end = (start + inner + 1).min(bytes.len());
        let mut varint = Vec::new();
        prost::encoding::encode_varint(self.number(), &mut varint);
        bytes.splice(start..end, varint);
    }

    /// A byte that may be the length of what follows it: a little more, a little less, or so that it reaches to the end.
    fn change_length(&mut self, bytes: &mut [u8]) {
        if bytes.is_empty() {
            return;
        }
        let at = self.random.position(bytes.len());
        let rest = u8::try_from(bytes.len() - at - 1).unwrap_or(u8::MAX);
        bytes[at] = match self.random.below(4) {
            0 => bytes[at].wrapping_add(1),
            1 => bytes[at].wrapping_sub(1),
            2 => rest,
            _ => rest.wrapping_add(1),
        };
    }

    /// A number in digits takes the place of one, or is put in.
    fn set_digits(&mut self, bytes: &mut Vec<u8>) {
        let start = self.place(bytes);
        let start = start
            + bytes[start..]
                .iter()
                .take_while(|byte| !byte.is_ascii_digit())
                .count();
        let digits = bytes[start..]
            .iter()
            .take_while(|byte| byte.is_ascii_digit())
            .count();
        let number = self.number().to_string();
        let sign = if self.random.one_in(8) { "-" } else { "" };
        bytes.splice(start..start + digits, format!("{sign}{number}").into_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_makes_the_same_inputs() {
        let inputs = [b"abc 17".to_vec(), vec![8, 0xff, 0x01, 0x12, 0x03, 1, 2, 3]];
        let draw = |seed| {
            let mut mutator = Mutator::new(&inputs, Random::new(seed));
            (0..1_000).map(|_| mutator.next_input()).collect::<Vec<_>>()
        };
        assert_eq!(draw(7), draw(7));
        let mut made = draw(7);
        made.sort_unstable();
        made.dedup();
        assert!(made.len() > 700, "only {} differ", made.len());
    }
}
