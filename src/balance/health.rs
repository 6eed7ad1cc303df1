//! What the checks of an endpoint say of it: so many in a row take it out, and so many bring it back.

/// Whether an endpoint is well, as far as it was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// Nobody has asked yet.
    Unchecked,
    Healthy,
    Unhealthy,
}

#[derive(Debug, Clone, Copy)]
pub struct Checks {
    health: Health,
    /// Answers in a row that speak against what it is taken for.
    against: u32,
}

impl Default for Checks {
    fn default() -> Self {
        Self { health: Health::Unchecked, against: 0 }
    }
}

impl Checks {
    pub fn health(&self) -> Health {
        self.health
    }

    /// Takes an answer, and tells whether it changed anything. The first answer decides alone.
    pub fn note(&mut self, good: bool, healthy: u32, unhealthy: u32) -> bool {
        let (says, needed) = if good { (Health::Healthy, healthy) } else { (Health::Unhealthy, unhealthy) };
        if says == self.health {
            self.against = 0;
            return false;
        }
        self.against += 1;
        let turns = self.health == Health::Unchecked || self.against >= needed;
        if turns {
            *self = Self { health: says, against: 0 };
        }
        turns
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_in_a_row_change_it_and_the_first_decides_alone() {
        // Answers, and what it is taken for after each; two good ones bring back, three bad ones take out.
        let rows = [
            ("g", "H"),
            ("b", "U"),
            ("gbb", "HHH"),
            ("gbbb", "HHHU"),
            ("gbbgbbb", "HHHHHHU"),
            ("bg", "UU"),
            ("bgg", "UUH"),
            ("bgbgg", "UUUUH"),
            ("bggbbb", "UUHHHU"),
        ];
        for (answers, expected) in rows {
            let mut checks = Checks::default();
            let mut before = checks.health();
            let mut found = String::new();
            for answer in answers.chars() {
                let changed = checks.note(answer == 'g', 2, 3);
                assert_eq!(changed, checks.health() != before, "{answers}");
                before = checks.health();
                found.push(if checks.health() == Health::Healthy { 'H' } else { 'U' });
            }
            assert_eq!(found, expected, "{answers}");
        }
    }
}
