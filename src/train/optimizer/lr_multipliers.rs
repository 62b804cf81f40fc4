//! Learning-rate multipliers of parameter groups.

/// Learning-rate multipliers by suffix of the parameter name; 1 for all other parameters.
#[derive(Debug, Clone, Default)]
pub struct LrMultipliers(Vec<(&'static str, f64)>);

impl LrMultipliers {
    /// Creates multipliers of the parameters whose names end with the given suffixes.
    #[must_use]
    pub fn by_suffix(multipliers: Vec<(&'static str, f64)>) -> Self {
        Self(multipliers)
    }

    /// Returns the multiplier of a parameter.
    #[must_use]
    pub fn multiplier(&self, name: &str) -> f64 {
        self.0.iter().find(|(suffix, _)| name.ends_with(suffix)).map_or(1.0, |&(_, multiplier)| multiplier)
    }

    /// Groups `names` by multiplier, keeping their order.
    #[must_use]
    pub fn partition(&self, names: Vec<String>) -> Vec<(f64, Vec<String>)> {
        let mut parts: Vec<(f64, Vec<String>)> = Vec::new();
        for name in names {
            let multiplier = self.multiplier(&name);
            match parts.iter_mut().find(|(other, _)| other.total_cmp(&multiplier).is_eq()) {
                Some((_, part)) => part.push(name),
                None => parts.push((multiplier, vec![name])),
            }
        }
        parts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_go_by_their_endings() {
        let names: Vec<String> = ["x.lora_a", "x.lora_b", "y.lora_a", "y.m"].map(String::from).into();
        assert_eq!(LrMultipliers::default().partition(names.clone()), [(1.0, names.clone())]);
        let multipliers = LrMultipliers::by_suffix(vec![(".lora_b", 4.0), (".m", 4.0)]);
        let [a, b, c, d] = [0, 1, 2, 3].map(|i| names[i].clone());
        assert_eq!(multipliers.partition(names), [(1.0, vec![a, c]), (4.0, vec![b, d])]);
    }
}
