import LanguageModel

// swift run generate 1 2 3: continues the prompt of these tokens.
let prompt = CommandLine.arguments.dropFirst().compactMap { Int($0) }
let model = try await LanguageModel()
print(try await model.generate(prompt.isEmpty ? [1] : prompt, maxTokens: 64))
