//! Learning rates of their own for some parameters.

/// What the learning rate is multiplied with, by the end of a parameter's name; 1 for all others.
#[derive(Debug, Clone, Default)]
pub struct LrFactors(Vec<(&'static str, f64)>);

impl LrFactors {
    /// Factors of the parameters whose names end so.
    #[must_use]
    pub fn by_ending(factors: Vec<(&'static str, f64)>) -> Self {
        Self(factors)
    }

    /// The factor of one parameter.
    #[must_use]
    pub fn of(&self, name: &str) -> f64 {
        self.0.iter().find(|(ending, _)| name.ends_with(ending)).map_or(1.0, |&(_, factor)| factor)
    }

    /// `names` by their factors, in order.
    #[must_use]
    pub fn split(&self, names: Vec<String>) -> Vec<(f64, Vec<String>)> {
        let mut parts: Vec<(f64, Vec<String>)> = Vec::new();
        for name in names {
            let factor = self.of(&name);
            match parts.iter_mut().find(|(other, _)| other.total_cmp(&factor).is_eq()) {
                Some((_, part)) => part.push(name),
                None => parts.push((factor, vec![name])),
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
        assert_eq!(LrFactors::default().split(names.clone()), [(1.0, names.clone())]);
        let factors = LrFactors::by_ending(vec![(".lora_b", 4.0), (".m", 4.0)]);
        let [a, b, c, d] = [0, 1, 2, 3].map(|i| names[i].clone());
        assert_eq!(factors.split(names), [(1.0, vec![a, c]), (4.0, vec![b, d])]);
    }
}
