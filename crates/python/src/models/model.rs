//! `Model`.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use efficientai_toolkit::adapters::{self, Library, StoredAdapter};
use efficientai_toolkit::kernels::quantized::Accuracy;
use efficientai_toolkit::nn::RowAdapter;
use efficientai_toolkit::nn::fingerprint::fingerprint;
use efficientai_toolkit::{Error, Result, generate, kernels, models};
use mlx_rs::{Array, Dtype};
use pyo3::prelude::*;

use super::parameters;
use crate::arguments::Text;
use crate::array::{Ids, Logits, MlxLogits, Parameter};
use crate::enter::enter;
use crate::exclusive::{Exclusive, Guard};
use crate::json::json;

/// A language model: `model(ids)` gives logits.
#[pyclass(frozen, module = "efficientai_toolkit._core.models")]
pub(crate) struct Model {
    inner: Exclusive<Box<models::Model>>,
    /// Taken only while `inner` is held.
    library: Mutex<Library>,
    folder: PathBuf,
    config: serde_json::Value,
    /// How exactly packed weights are used in generation, once it is known.
    accuracy: OnceLock<Option<Accuracy>>,
    /// Numbers of sets of adapters that were in use, by what identifies them.
    weights: Mutex<HashMap<String, u64>>,
    /// Counts replacements of the whole library.
    changes: AtomicU64,
}

impl Model {
    /// The model itself, for one user at a time; others wait.
    pub(crate) fn lock(&self) -> Result<Guard<'_, Box<models::Model>>> {
        self.inner.lock()
    }

    /// As [`lock`](Self::lock), with all layers dense or quantized.
    pub(crate) fn lock_unpacked(&self) -> Result<Guard<'_, Box<models::Model>>> {
        let mut inner = self.lock()?;
        models::sparse::unpack(inner.as_mut())?;
        Ok(inner)
    }

    /// A loaded model with what it was loaded from.
    pub(crate) fn new(
        mut inner: Box<models::Model>,
        folder: PathBuf,
        config: serde_json::Value,
    ) -> Result<Self> {
        let library = Mutex::new(Library::from_network(inner.as_mut())?);
        Ok(Self {
            inner: Exclusive::new(inner),
            library,
            folder,
            config,
            accuracy: OnceLock::new(),
            weights: Mutex::default(),
            changes: AtomicU64::new(0),
        })
    }

    /// Runs `work`, which may change weights and leave other adapters on the model; sparse layers are unpacked.
    pub(crate) fn change_adapters<T>(&self, work: impl FnOnce(&mut models::Model) -> Result<T>) -> Result<T> {
        let mut inner = self.lock_unpacked()?;
        let outcome = work(inner.as_mut());
        self.changes.fetch_add(1, Ordering::Relaxed);
        // Work that fails or stops early leaves its adapters too.
        *self.library() = Library::from_network(inner.as_mut())?;
        outcome
    }

    /// The adapters of the model; `inner` is held by whoever asks.
    fn library(&self) -> MutexGuard<'_, Library> {
        self.library.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Identifies the weights in use, adapters included; `inner` is held by whoever asks.
    pub(crate) fn weights(&self) -> u64 {
        let library = self.library();
        library.identify(library.active()).map_or(u64::MAX, |identity| self.number(&identity))
    }

    /// Number of the weights with the adapters that `identity` tells.
    fn number(&self, identity: &str) -> u64 {
        let key = format!("{} {identity}", self.changes.load(Ordering::Relaxed));
        let mut numbers = self.weights.lock().unwrap_or_else(PoisonError::into_inner);
        let next = numbers.len() as u64;
        *numbers.entry(key).or_insert(next)
    }

    /// Identifies the configuration and the content of all weights in use, in every process.
    pub(crate) fn fingerprint(&self, inner: &mut models::Model) -> Result<u128> {
        fingerprint(inner, &self.config.to_string())
    }

    /// The adapters of `choice` for single rows; `inner` is what is locked. `known` may have them already, by their number.
    pub(crate) fn row_adapter(
        &self,
        inner: &mut models::Model,
        choice: Choice,
        known: impl FnOnce(u64) -> Option<Arc<RowAdapter>>,
    ) -> Result<Arc<RowAdapter>> {
        let (library, weights) = (self.library(), choice.weights());
        let number = self.number(&library.identify(&weights)?);
        known(number).map_or_else(|| library.for_rows(inner, &weights, number).map(Arc::new), Ok)
    }

    /// Whether whole modules of an adapter are attached, which all rows share; `inner` is held by whoever asks.
    pub(crate) fn shares_modules(&self) -> bool {
        let library = self.library();
        library.active().keys().any(|name| matches!(library.is_batchable(name), Ok(false)))
    }

    /// The fastest way to use packed weights that is close enough; measured at the first call.
    pub(crate) fn accuracy(&self) -> Result<Option<Accuracy>> {
        if let Some(&accuracy) = self.accuracy.get() {
            return Ok(accuracy);
        }
        let accuracy = generate::accuracy::select(self.lock()?.as_ref())?;
        Ok(*self.accuracy.get_or_init(|| accuracy))
    }

    /// The parsed `config.json` of the language model.
    pub(crate) fn json(&self) -> &serde_json::Value {
        &self.config
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }
}

/// One adapter, or several with weights.
#[derive(FromPyObject)]
pub(crate) enum Choice {
    Name(String),
    Weights(BTreeMap<String, f32>),
}

impl Choice {
    /// Weights by name.
    fn weights(self) -> BTreeMap<String, f32> {
        match self {
            Self::Name(name) => [(name, 1.0)].into(),
            Self::Weights(weights) => weights,
        }
    }
}

#[pymethods]
impl Model {
    /// Folder the model came from.
    #[getter]
    fn path(&self) -> &Path {
        &self.folder
    }

    /// Architecture, as `config.json` names it.
    #[getter]
    fn model_type(&self) -> &str {
        self.config["model_type"].as_str().unwrap_or_default()
    }

    /// The parsed `config.json`; of a larger model, such as a vision–language model, the language model's part.
    #[getter]
    fn config<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        py.import("json")?.call_method1("loads", (self.config.to_string(),))
    }

    /// Number format of activations: float32, float16 or bfloat16.
    #[getter]
    fn dtype(&self, py: Python<'_>) -> PyResult<String> {
        enter(py, || Ok(format!("{:?}", self.lock()?.dtype()).to_lowercase()))
    }

    /// Number of parameters, adapters included; packed weights count as what they stand for.
    #[getter]
    fn num_parameters(&self, py: Python<'_>) -> PyResult<u64> {
        enter(py, || self.lock()?.count_parameters())
    }

    /// Adapters by name, with their weights; 0 for those that are not in use.
    #[getter]
    fn adapters(&self, py: Python<'_>) -> PyResult<BTreeMap<String, f32>> {
        enter(py, || {
            let _model = self.lock()?;
            Ok(self.library().weights())
        })
    }

    /// Reads the adapter in a folder, in either format, and keeps it under `name` without using it yet.
    fn load_adapter(&self, py: Python<'_>, path: PathBuf, name: Text) -> PyResult<()> {
        enter(py, || {
            let mut model = self.lock()?;
            match adapters::read(&path, Some(model.as_ref()))?.0 {
                StoredAdapter::LowRank(adapter) => self.library().add(model.as_mut(), &name.0, adapter),
                StoredAdapter::Prompt(_) => Err(Error::Config(format!(
                    "{} holds virtual tokens: load the model with it, only low-rank adapters can be exchanged",
                    path.display()
                ))),
                StoredAdapter::Full(_) => Err(Error::Config(format!(
                    "{} holds plain parameters, which would replace the model's: only low-rank adapters can be exchanged",
                    path.display()
                ))),
            }
        })
    }

    /// Puts the adapter of this name onto the model, or those of a mapping times their weights, in place of what was
    /// on it; `None` takes all off.
    #[pyo3(signature = (adapters))]
    fn set_adapter(&self, py: Python<'_>, adapters: Option<Choice>) -> PyResult<()> {
        enter(py, || {
            let weights = adapters.map(Choice::weights).unwrap_or_default();
            let mut model = self.lock()?;
            self.library().set(model.as_mut(), &weights)
        })
    }

    /// Whether requests with the adapter of this name can be computed together with others: all but those with whole
    /// modules (``modules_to_save``), which have to be put onto the model.
    fn is_batchable(&self, py: Python<'_>, name: Text) -> PyResult<bool> {
        enter(py, || {
            let _model = self.lock()?;
            self.library().is_batchable(&name.0)
        })
    }

    /// Forgets the adapter of this name; others in use stay.
    fn unload_adapter(&self, py: Python<'_>, name: Text) -> PyResult<()> {
        enter(py, || {
            let mut model = self.lock()?;
            self.library().remove(model.as_mut(), &name.0)
        })
    }

    /// Logits for token ids.
    ///
    /// Parameters
    /// ----------
    /// ids
    ///     Integers, ``[batch, time]``.
    ///
    /// Returns
    /// -------
    /// numpy.ndarray
    ///     float32, ``[batch, time, vocab]``.
    fn __call__(&self, py: Python<'_>, ids: Ids) -> PyResult<Logits> {
        enter(py, || {
            let model = self.lock()?;
            let shape = ids.shape.map(|dim| dim as i32);
            let ids = Array::from_slice(&tokens(&ids, model.vocab_size())?, &shape);
            let logits = model.forward(&ids, None)?.as_dtype(Dtype::Float32)?;
            kernels::eval([&logits])?;
            let vocab = logits.dim(-1) as usize;
            Ok(Logits {
                values: logits.as_slice::<f32>().to_vec(),
                shape: [shape[0] as usize, shape[1] as usize, vocab],
            })
        })
    }

    /// Logits for token ids, as an ``mlx.core.array``.
    ///
    /// Parameters
    /// ----------
    /// ids
    ///     Integers, ``[batch, time]``.
    ///
    /// Returns
    /// -------
    /// mlx.core.array
    ///     float32, ``[batch, time, vocab]``.
    fn mlx_logits(&self, py: Python<'_>, ids: Ids) -> PyResult<MlxLogits> {
        self.__call__(py, ids).map(MlxLogits)
    }

    /// What the model computes besides its parameters, block by block, as a dictionary; ``None`` for architectures that
    /// it does not describe.
    #[getter]
    fn outline<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let outline = enter(py, || self.lock()?.outline().as_ref().map(json).transpose())?;
        outline.map(|text| py.import("json")?.call_method1("loads", (text,))).transpose()
    }

    /// Shapes of all parameters by name, with adapters merged into the weights.
    #[getter]
    fn parameter_shapes(&self, py: Python<'_>) -> PyResult<BTreeMap<String, Vec<i32>>> {
        enter(py, || parameters::shapes(self.lock()?.as_mut()))
    }

    /// Formats of quantized weights by the name of their layer: mode, bits and group size. Weights that adapters are
    /// merged into are not quantized.
    #[getter]
    fn quantized_layers(&self, py: Python<'_>) -> PyResult<BTreeMap<String, (String, usize, usize)>> {
        enter(py, || {
            let mut model = self.lock()?;
            let adapted = parameters::adapted(model.as_mut())?;
            let mut formats = BTreeMap::new();
            model.visit_weights(&mut |path, weight| {
                if let Some(format) = weight.format().filter(|_| !adapted.contains_key(path)) {
                    let mode = format.mode().name().to_owned();
                    formats.insert(path.to_owned(), (mode, format.bits(), format.group_size()));
                }
                Ok(())
            })?;
            Ok(formats)
        })
    }

    /// Layers that are held without their zeros, by name: the fraction of zeros, and the bytes of the weight as it is and
    /// as it would be with them, without scales and biases.
    #[getter]
    fn sparse_layers(&self, py: Python<'_>) -> PyResult<BTreeMap<String, (f64, usize, usize)>> {
        enter(py, || {
            let layers = models::sparse::layers(self.lock()?.as_mut())?;
            let tuple =
                |layer: models::sparse::SparseLayer| (layer.sparsity, layer.nbytes, layer.dense_nbytes);
            Ok(layers.into_iter().map(|(path, layer)| (path, tuple(layer))).collect())
        })
    }

    /// A copy of one parameter, with adapters merged into it: float32, or the unsigned integers of quantized weights.
    fn parameter(&self, py: Python<'_>, name: Text) -> PyResult<Parameter> {
        enter(py, || Parameter::copy(&parameters::merged(self.lock()?.as_mut(), &name.0)?))
    }

    fn __repr__(&self) -> String {
        format!("Model({}, {})", self.model_type(), self.folder.display())
    }
}

/// The ids as MLX takes them, if all of them are below `vocab`.
fn tokens(ids: &Ids, vocab: i32) -> Result<Vec<i32>> {
    if ids.values.is_empty() {
        return Err(Error::Config(format!("ids have shape {:?}, expected at least one token", ids.shape)));
    }
    let token = |&id: &i64| {
        let valid = i32::try_from(id).ok().filter(|id| (0..vocab).contains(id));
        valid.ok_or_else(|| Error::Config(format!("ids hold {id}, expected 0 to {}", vocab - 1)))
    };
    ids.values.iter().map(token).collect()
}
