//! Choices drawn from a seed, so that a failing run can be repeated with the seed that it printed.

/// A seed below `end`, another one each time, for who was given none. Print it, so that the run can be repeated.
pub fn new_seed(end: u64) -> u64 {
    uuid::Uuid::new_v4().as_u64_pair().0 % end
}

/// A small generator (SplitMix64): the same seed gives the same choices on every machine.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// Starts from a seed.
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The seed of this run: `RDB_TEST_SEED` when set, else `usual`. Printed, so that a failure can be repeated.
    pub fn of_run(usual: u64) -> Self {
        let given = std::env::var_os("RDB_TEST_SEED");
        let seed = given.map_or(usual, |text| {
            let text = text.to_string_lossy();
            text.parse().expect("RDB_TEST_SEED must be a number")
        });
        crate::say(&format!("seed {seed} (repeat with RDB_TEST_SEED={seed})"));
        Self(seed)
    }

    /// A generator of its own for a part of the run, which does not disturb the choices of the others.
    #[must_use]
    pub fn fork(&mut self) -> Self {
        Self(self.next())
    }

    /// Any number.
    pub const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`, which must not be 0.
    pub const fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// A position below `end`, which must not be 0.
    pub fn position(&mut self, end: usize) -> usize {
        usize::try_from(self.below(u64::try_from(end).unwrap())).unwrap()
    }

    /// True once in `n` times.
    pub const fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    /// A UUID of version 4, drawn from the seed.
    pub fn uuid(&mut self) -> uuid::Uuid {
        let wide = u128::from(self.next()) << 64 | u128::from(self.next());
        uuid::Builder::from_random_bytes(wide.to_le_bytes()).into_uuid()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_choices() {
        let draw = |seed| {
            let mut random = Random::new(seed);
            (random.next(), random.below(10), random.uuid())
        };
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
    }
}
