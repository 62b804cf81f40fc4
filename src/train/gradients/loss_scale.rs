//! [Dynamic loss scaling](https://arxiv.org/abs/1710.03740): in float16, small gradients are 0 unless the loss is
//! multiplied first, and large ones are infinite where it is multiplied too much.

use serde::{Deserialize, Serialize};

const START: f32 = 65_536.0;
const LARGEST: f32 = 16_777_216.0;
/// Finite steps after which the scale is doubled.
const INTERVAL: u32 = 2000;

/// What the loss is multiplied with; gradients are divided by it before they are used.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct LossScale {
    /// A power of 2, so that it costs no precision.
    pub scale: f32,
    /// Finite steps since it last changed.
    pub good_steps: u32,
}

impl Default for LossScale {
    fn default() -> Self {
        Self { scale: START, good_steps: 0 }
    }
}

impl LossScale {
    /// After a step with finite gradients.
    pub fn grow(&mut self) {
        self.good_steps += 1;
        if self.good_steps >= INTERVAL {
            *self = Self { scale: (2.0 * self.scale).min(LARGEST), good_steps: 0 };
        }
    }

    /// After a step with an overflow, which is to be skipped; false where the scale is not what is at fault.
    #[must_use]
    pub fn shrink(&mut self) -> bool {
        *self = Self { scale: self.scale / 2.0, good_steps: 0 };
        self.scale >= 1.0
    }
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "powers of 2 are exact")]
mod tests {
    use super::*;

    #[test]
    fn halves_on_overflow_and_doubles_after_two_thousand_good_steps() {
        let mut scale = LossScale::default();
        assert!(scale.shrink());
        assert_eq!(scale, LossScale { scale: 32_768.0, good_steps: 0 });
        for _ in 0..1999 {
            scale.grow();
        }
        assert_eq!(scale, LossScale { scale: 32_768.0, good_steps: 1999 });
        scale.grow();
        assert_eq!(scale, LossScale { scale: 65_536.0, good_steps: 0 });
    }

    #[test]
    fn has_a_top_and_a_bottom() {
        let mut scale = LossScale { scale: LARGEST, good_steps: INTERVAL - 1 };
        scale.grow();
        assert_eq!(scale.scale, LARGEST);
        let mut scale = LossScale { scale: 1.0, good_steps: 5 };
        assert!(!scale.shrink());
    }
}
