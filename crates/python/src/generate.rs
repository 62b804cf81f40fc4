//! `_core.generate`: generating text.

use std::sync::{Mutex, MutexGuard, PoisonError};

use efficientai_toolkit::generate::{
    GenerateConfig, Scheduler, SchedulerConfig, embed as embeddings, run, sampler, speculative,
};
use efficientai_toolkit::kernels::quantized::Accuracy;
use efficientai_toolkit::{Error, Result, models};
use pyo3::prelude::*;

use super::arguments::Prompt;
use super::array::Row;
use super::enter::{enter, enter_without_threads};
use super::json::{json, parse};
use super::models::{Choice, Model, Tokenizer};
use super::observer::observed;

/// Token ids of a prompt; ids that are given are below `vocab`.
fn encode(
    tokenizer: &efficientai_toolkit::data::Tokenizer,
    prompt: Prompt,
    add_special_tokens: bool,
    vocab: i32,
) -> Result<Vec<u32>> {
    match prompt {
        Prompt::Text(text) if add_special_tokens => tokenizer.encode_prompt(&text),
        Prompt::Text(text) => tokenizer.encode(&text, false),
        Prompt::Ids(ids) => match ids.iter().find(|&&id| id >= vocab.unsigned_abs()) {
            Some(id) => Err(Error::Config(format!("ids hold {id}, expected 0 to {}", vocab - 1))),
            None => Ok(ids),
        },
    }
}

/// Continues ``prompt``, a text or token ids, and returns a JSON report; ``on_text`` receives each piece of text.
///
/// ``config`` is the JSON of a ``GenerateConfig``. ``add_special_tokens`` is for plain text; a
/// rendered chat template holds its own.
#[pyfunction]
#[pyo3(signature = (model, tokenizer, prompt, config, on_text=None, add_special_tokens=true))]
pub(super) fn generate(
    py: Python<'_>,
    model: &Bound<'_, Model>,
    tokenizer: &Bound<'_, Tokenizer>,
    prompt: Prompt,
    config: &str,
    on_text: Option<Py<PyAny>>,
    add_special_tokens: bool,
) -> PyResult<String> {
    let (model, tokenizer) = (model.get(), tokenizer.get().inner());
    observed(py, on_text, |caller| {
        let config: GenerateConfig = parse(config)?;
        let accuracy = config.accuracy.map_or_else(|| model.accuracy(), |accuracy| Ok(Some(accuracy)))?;
        let model = model.lock()?;
        let ids = encode(tokenizer, prompt, add_special_tokens, model.vocab_size())?;
        let mut on_text = |text: &str| if text.is_empty() { caller.poll() } else { caller.call(text) };
        let report = run(model.as_ref(), tokenizer, &ids, &config, accuracy, &mut on_text)?;
        json(&report)
    })
}

/// Continues several prompts at once; requests join and leave between steps.
///
/// ``settings`` is the JSON of a ``SchedulerConfig``; ``accuracy`` is that of the products of a quantized model. A
/// ``draft`` model proposes tokens that the model then reads at once (speculative decoding).
#[pyclass(frozen, module = "efficientai_toolkit._core.generate")]
pub(super) struct Engine {
    scheduler: Mutex<Scheduler>,
    model: Py<Model>,
    draft: Option<Py<Model>>,
    tokenizer: Py<Tokenizer>,
}

impl Engine {
    fn scheduler(&self) -> MutexGuard<'_, Scheduler> {
        self.scheduler.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells the scheduler which weights the model has.
    fn tell_weights(&self, scheduler: &mut Scheduler, network: &mut models::Model) -> Result<()> {
        let model = self.model.get();
        let number = model.weights();
        scheduler.set_weights(network, number);
        if scheduler.needs_fingerprint(number) {
            scheduler.set_fingerprint(number, model.fingerprint(network)?);
        }
        Ok(())
    }
}

#[pymethods]
impl Engine {
    #[new]
    #[pyo3(signature = (model, tokenizer, settings="{}", accuracy=None, draft=None))]
    fn new(
        py: Python<'_>,
        model: Py<Model>,
        tokenizer: Py<Tokenizer>,
        settings: &str,
        accuracy: Option<&str>,
        draft: Option<Py<Model>>,
    ) -> PyResult<Self> {
        let scheduler = enter(py, || {
            if let Some(draft) = &draft {
                if draft.is(&model) {
                    return Err(Error::Config(
                        "the draft model is the model itself: load a smaller one".into(),
                    ));
                }
                let (model, draft) = (model.get().lock()?, draft.get().lock()?);
                speculative::check(model.as_ref(), draft.as_ref())?;
            }
            let settings: SchedulerConfig = parse(settings)?;
            let accuracy = match accuracy {
                Some(name) => Some(parse(&format!("{name:?}"))?),
                None => model.get().accuracy()?,
            };
            Scheduler::new(settings, accuracy)
        })?;
        Ok(Self { scheduler: Mutex::new(scheduler), model, draft, tokenizer })
    }

    /// Adds a request to continue ``prompt``, a text or token ids, and returns its number.
    ///
    /// ``config`` is the JSON of a ``GenerateConfig``. ``add_special_tokens`` is for plain text; a
    /// rendered chat template holds its own. ``adapter`` is the name of a loaded adapter, or weights by name, in place of
    /// what is on the model; an empty mapping is the model alone.
    #[pyo3(signature = (prompt, config="{}", add_special_tokens=true, adapter=None))]
    fn add(
        &self,
        py: Python<'_>,
        prompt: Prompt,
        config: &str,
        add_special_tokens: bool,
        adapter: Option<Choice>,
    ) -> PyResult<u64> {
        let (model, tokenizer) = (self.model.get(), self.tokenizer.get().inner());
        enter(py, || {
            let config: GenerateConfig = parse(config)?;
            let mut scheduler = self.scheduler();
            let mut network = model.lock()?;
            let ids = encode(tokenizer, prompt, add_special_tokens, network.vocab_size())?;
            self.tell_weights(&mut scheduler, network.as_mut())?;
            let find = |number| scheduler.adapter(number);
            let adapter =
                adapter.map(|choice| model.row_adapter(network.as_mut(), choice, find)).transpose()?;
            if let Some(adapter) = &adapter
                && let Some(base) = scheduler.fingerprint(model.weights())
                && scheduler.needs_fingerprint(adapter.id())
            {
                scheduler.set_fingerprint(adapter.id(), adapter.fingerprint(base)?);
            }
            scheduler.add_with_adapter(network.as_ref(), tokenizer, ids, config, adapter)
        })
    }

    /// Ends a request; the next step reports it.
    fn cancel(&self, py: Python<'_>, request: u64) -> PyResult<()> {
        enter(py, || {
            self.scheduler().cancel(request);
            Ok(())
        })
    }

    /// Continues all requests by one step and returns what is new, as a JSON list of events.
    fn step(&self, py: Python<'_>) -> PyResult<String> {
        let (model, tokenizer) = (self.model.get(), self.tokenizer.get().inner());
        enter(py, || {
            let mut scheduler = self.scheduler();
            let mut network = model.lock()?;
            self.tell_weights(&mut scheduler, network.as_mut())?;
            if model.shares_modules() && scheduler.has_adapters() {
                return Err(Error::Config(
                    "whole modules (modules_to_save) were put onto the model while requests with other adapters run".into(),
                ));
            }
            let draft = self.draft.as_ref().map(|draft| draft.get().lock()).transpose()?;
            json(&scheduler.step(network.as_ref(), draft.as_ref().map(|draft| draft.as_ref()), tokenizer))
        })
    }

    /// Waits until the states of earlier texts are in files that are to be; later ones are kept in memory only.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        enter(py, || {
            self.scheduler().close();
            Ok(())
        })
    }

    /// Number of requests that are continued.
    #[getter]
    fn running(&self, py: Python<'_>) -> PyResult<usize> {
        enter(py, || Ok(self.scheduler().running()))
    }

    /// Number of requests that wait.
    #[getter]
    fn waiting(&self, py: Python<'_>) -> PyResult<usize> {
        enter(py, || Ok(self.scheduler().waiting()))
    }

    /// Bytes of the states of earlier texts.
    #[getter]
    fn prompt_cache_bytes(&self, py: Python<'_>) -> PyResult<usize> {
        enter(py, || Ok(self.scheduler().prompt_cache_bytes()))
    }
}

/// Embeddings of texts or token ids: hidden states of length 1, pooled over all tokens (``mean``) or of the ``last``.
///
/// ``adapter`` is the name of a loaded adapter, or weights by name, in place of what is on the model.
///
/// Returns
/// -------
/// list
///     Of each text, its embedding and its number of tokens.
#[pyfunction]
#[pyo3(signature = (model, tokenizer, texts, pooling="mean", adapter=None))]
pub(super) fn embed(
    py: Python<'_>,
    model: &Bound<'_, Model>,
    tokenizer: &Bound<'_, Tokenizer>,
    texts: Vec<Prompt>,
    pooling: &str,
    adapter: Option<Choice>,
) -> PyResult<Vec<(Vec<f32>, usize)>> {
    let (model, tokenizer) = (model.get(), tokenizer.get().inner());
    enter(py, || {
        let pooling = parse(&format!("{pooling:?}"))?;
        let accuracy = model.accuracy()?.unwrap_or(Accuracy::F32);
        let mut network = model.lock()?;
        let adapter =
            adapter.map(|choice| model.row_adapter(network.as_mut(), choice, |_| None)).transpose()?;
        let encode = |text| encode(tokenizer, text, true, network.vocab_size());
        let texts = texts.into_iter().map(encode).collect::<Result<Vec<_>>>()?;
        let embed = || embeddings::embed(network.as_ref(), &texts, pooling, adapter.as_ref());
        let embeddings = accuracy.scope(embed)?;
        Ok(embeddings.into_iter().zip(texts.iter().map(Vec::len)).collect())
    })
}

/// The default ``GenerateConfig`` as JSON.
#[pyfunction]
pub(super) fn defaults(py: Python<'_>) -> PyResult<String> {
    enter_without_threads(py, || json(&GenerateConfig::default()))
}

/// Checks the value of every setting of ``config``, the JSON of a ``GenerateConfig``.
#[pyfunction]
pub(super) fn check(py: Python<'_>, config: &str) -> PyResult<()> {
    enter_without_threads(py, || parse::<GenerateConfig>(config)?.validate())
}

/// Chooses tokens as `generate` does, from logits of any origin.
///
/// ``config`` is the JSON of a ``GenerateConfig``.
#[pyclass(frozen, module = "efficientai_toolkit._core.generate")]
pub(super) struct Sampler {
    inner: Mutex<sampler::Sampler>,
}

#[pymethods]
impl Sampler {
    #[new]
    fn new(py: Python<'_>, config: &str) -> PyResult<Self> {
        enter_without_threads(py, || {
            let config: GenerateConfig = parse(config)?;
            config.validate()?;
            Ok(Self { inner: Mutex::new(sampler::Sampler::new(&config)) })
        })
    }

    /// Chooses a token; ``logits`` are ``[vocab]``, and ``tokens`` holds ``prompt`` tokens of the prompt, then the
    /// generated ones.
    fn sample(&self, py: Python<'_>, logits: Row, tokens: Vec<u32>, prompt: usize) -> PyResult<u32> {
        enter_without_threads(py, || {
            let Row(mut logits) = logits;
            let mut sampler = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
            sampler.next(&mut logits, &tokens, prompt.min(tokens.len()))
        })
    }
}
