// swift-tools-version: 6.0
import PackageDescription

let package = Package(
    name: "LanguageModel",
    platforms: [.macOS(.v15), .iOS(.v18)],
    products: [
        .library(name: "LanguageModel", targets: ["LanguageModel"]),
        .executable(name: "generate", targets: ["generate"]),
    ],
    targets: [
        .target(name: "LanguageModel", resources: [.copy("Resources")]),
        .executableTarget(name: "generate", dependencies: ["LanguageModel"]),
    ]
)
