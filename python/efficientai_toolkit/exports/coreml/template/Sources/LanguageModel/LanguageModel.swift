import CoreML
import Foundation

/// A decoder that remembers what it has read.
///
/// Tokens go in and come out; `resources` is where the files of its tokenizer lie.
public final class LanguageModel {
    /// Longest text, in tokens.
    public let contextLength: Int
    /// Tokens that end an answer.
    public let endTokens: Set<Int>
    /// Folder with `tokenizer.json`, `tokenizer_config.json` and the compiled program.
    public let resources: URL

    private let model: MLModel
    private var state: MLState
    private var length = 0

    public enum Failure: Error {
        case missingResources
        case tooLong(limit: Int)
        case noLogits
    }

    /// Compile and load the program of this package. Compiling takes a while: keep the model.
    public init(computeUnits: MLComputeUnits = .all) async throws {
        guard let resources = Bundle.module.url(forResource: "Resources", withExtension: nil) else {
            throw Failure.missingResources
        }
        self.resources = resources
        let compiled = try await MLModel.compileModel(at: resources.appendingPathComponent("Model.mlpackage"))
        let configuration = MLModelConfiguration()
        configuration.computeUnits = computeUnits
        model = try await MLModel.load(contentsOf: compiled, configuration: configuration)
        state = model.makeState()
        let facts = model.modelDescription.metadata[.creatorDefinedKey] as? [String: String] ?? [:]
        contextLength = Int(facts["context_length"] ?? "") ?? 0
        endTokens = Set((facts["eos_token_ids"] ?? "").split(separator: ",").compactMap { Int($0) })
    }

    /// Forget everything that was read.
    public func reset() {
        state = model.makeState()
        length = 0
    }

    /// Read tokens behind those that were read before, and return the likeliest next one.
    public func read(_ tokens: [Int]) async throws -> Int {
        let end = length + tokens.count
        guard end <= contextLength else { throw Failure.tooLong(limit: contextLength) }
        let ids = try MLMultiArray(shape: [1, NSNumber(value: tokens.count)], dataType: .int32)
        for (place, token) in tokens.enumerated() {
            ids[place] = NSNumber(value: token)
        }
        let shape = [1, 1, tokens.count, end].map { NSNumber(value: $0) }
        let mask = try MLMultiArray(shape: shape, dataType: .float16)
        for query in 0..<tokens.count {
            for key in 0..<end {
                // A token sees itself and those before it.
                mask[query * end + key] = key <= length + query ? 0 : -30000
            }
        }
        let inputs = try MLDictionaryFeatureProvider(dictionary: ["inputIds": ids, "causalMask": mask])
        let outputs = try await model.prediction(from: inputs, using: state)
        guard let logits = outputs.featureValue(for: "logits")?.multiArrayValue else {
            throw Failure.noLogits
        }
        length = end
        return largest(logits, row: tokens.count - 1)
    }

    /// Continue a prompt with the likeliest tokens, up to one that ends the answer.
    public func generate(_ prompt: [Int], maxTokens: Int) async throws -> [Int] {
        var tokens: [Int] = []
        var next = try await read(prompt)
        while tokens.count < maxTokens, !endTokens.contains(next) {
            tokens.append(next)
            guard tokens.count < maxTokens, length < contextLength else { break }
            next = try await read([next])
        }
        return tokens
    }

    private func largest(_ logits: MLMultiArray, row: Int) -> Int {
        let size = logits.shape[2].intValue
        let rows = logits.strides[1].intValue
        let columns = logits.strides[2].intValue
        var best = 0
        var highest = -Float.infinity
        for token in 0..<size {
            let value = logits[row * rows + token * columns].floatValue
            if value > highest {
                highest = value
                best = token
            }
        }
        return best
    }
}
