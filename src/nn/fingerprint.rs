//! What a network computes with, as a number that is the same in every process.

use std::collections::BTreeMap;

use twox_hash::xxhash3_128::Hasher;

use super::Network;
use crate::Result;
use crate::params::digest;

/// Identifies the content of all parameters of `network`, adapters included, the formats and factors they are used
/// with, and `settings`: 128 bits of XXH3, which reads them at the speed of memory. It tells versions apart, not what is made up to have
/// the same number.
///
/// # Errors
/// Errors from MLX.
pub fn fingerprint(network: &mut dyn Network, settings: &str) -> Result<u128> {
    let mut hasher = Hasher::new();
    hasher.write(settings.as_bytes());
    let parameters = network.parameters().flatten();
    let sorted: BTreeMap<&str, _> = parameters.iter().map(|(name, &array)| (name.as_ref(), array)).collect();
    for (name, array) in sorted {
        digest(&mut hasher, name, array)?;
    }
    network.visit_weights(&mut |path, weight| {
        hasher.write(format!("{path} {:?}", weight.format()).as_bytes());
        Ok(())
    })?;
    network.visit_linears(&mut |path, layer| {
        hasher.write(format!("{path} {:?}", layer.low_rank.scale).as_bytes());
        layer.low_rank.fixed.iter().flatten().try_for_each(|matrix| digest(&mut hasher, path, matrix))
    })?;
    Ok(hasher.finish_128())
}
