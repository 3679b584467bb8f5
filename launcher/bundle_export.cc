#include "launcher/bundle_export.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

#include "common/files.h"
#include "launcher/bundle_tables.h"
#include "launcher/golden_requests.h"
#include "launcher/inspected_commit.h"
#include "launcher/run_inputs.h"
#include "serving/bundle_model.h"
#include "serving/onnx_writer.h"
#include "serving/ranker_graph.h"
#include "serving/torchscript_writer.h"
#include "serving/triton.h"
#include "worker/data/log_schema.h"
#include "worker/numerics.h"

namespace savior {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

constexpr const char* kModelName = "savior";

// Weights without the optimizer's moments.
absl::Status WriteRanker(const fs::path& folder, const TensorFile& dense) {
  TensorFile weights;
  for (const auto& [name, tensor] : dense.tensors) {
    if (!name.starts_with("adam.")) weights.tensors[name] = tensor;
  }
  weights.metadata["format"] = "pt";
  return WriteTensorFile(folder / kBundleRanker, weights);
}

absl::Status WriteGraphs(const fs::path& folder, const Config& config, const LogSchema& schema,
                         int64_t step, const TensorFile& dense) {
  const RankerSizes sizes = {
      .features = static_cast<int64_t>(schema.item_features.size()),
      .context = static_cast<int64_t>(schema.context_features.size()),
      .numerics = kOwnNumerics + static_cast<int64_t>(schema.item_numerics.size() +
                                                      schema.context_numerics.size())};
  SAVIOR_ASSIGN_OR_RETURN(const Graph graph, RankerGraph(config, sizes, dense));
  SAVIOR_ASSIGN_OR_RETURN(
      const std::string onnx,
      OnnxModel(graph, {.producer_version = SAVIOR_VERSION,
                        .metadata = {{"step", std::to_string(step)}, {"arm", config.model.arm}}}));
  SAVIOR_RETURN_IF_ERROR(WriteFileAtomically(folder / kBundleOnnx, onnx));
  return WriteTorchScript(graph, folder / kBundleTorchScript);
}

absl::Status WriteTriton(const fs::path& folder, const Config& config, const LogSchema& schema,
                         const TensorFile& dense) {
  const RankerSizes sizes = {
      .features = static_cast<int64_t>(schema.item_features.size()),
      .context = static_cast<int64_t>(schema.context_features.size()),
      .numerics = kOwnNumerics + static_cast<int64_t>(schema.item_numerics.size() +
                                                      schema.context_numerics.size())};
  SAVIOR_ASSIGN_OR_RETURN(const Graph graph, RankerGraph(config, sizes, dense));
  const fs::path model = folder / "triton" / kModelName;
  SAVIOR_RETURN_IF_ERROR(MakeWritableFolder(model / "1"));
  std::error_code error;
  fs::create_hard_link(folder / kBundleOnnx, model / "1" / "model.onnx", error);
  if (error) return SystemError(error.value(), "linking " + (model / "1/model.onnx").string());
  return WriteFileAtomically(model / "config.pbtxt", TritonConfig(graph, kModelName));
}

// Copies what is there; its digest is its version.
absl::StatusOr<std::string> CopyVersioned(const fs::path& from, const fs::path& to) {
  std::error_code error;
  if (!fs::exists(from, error)) return std::string();
  SAVIOR_ASSIGN_OR_RETURN(const std::string bytes, ReadFile(from));
  SAVIOR_RETURN_IF_ERROR(WriteFileAtomically(to, bytes));
  return DigestBytes(bytes);
}

// What the run's result says of this very step; null: nothing.
Json MetricsOf(const Commit& commit) {
  const fs::path run = commit.folder.parent_path().parent_path();
  const auto text = ReadFile(run / "result.json");
  if (!text.ok()) return nullptr;
  const Json result = Json::parse(*text, nullptr, /*allow_exceptions=*/false);
  if (!result.is_object() || !result.contains("eval") ||
      result.value("steps", int64_t{-1}) != commit.manifest.step) {
    return nullptr;
  }
  return result["eval"];
}

// One export at work.
class Exporter {
 public:
  Exporter(const ExportOptions& options, InspectedCommit* commit, const RunInputs& inputs)
      : options_(options), commit_(*commit), inputs_(inputs) {}

  absl::StatusOr<Bundle> Run() {
    SAVIOR_RETURN_IF_ERROR(OpenBase());
    const fs::path& from = commit_.commit().folder;
    SAVIOR_ASSIGN_OR_RETURN(dense_, ReadTensorFile(from / kDenseFile));
    // The versions of encoder and codebook are known before the manifest is written only if they
    // are read twice; they are small.
    SAVIOR_ASSIGN_OR_RETURN(manifest_.encoder_version, VersionOf(from / kEncoderFile));
    SAVIOR_ASSIGN_OR_RETURN(manifest_.codebook_version, VersionOf(from / kCodebookFile));
    manifest_.step = commit_.commit().manifest.step;
    manifest_.commit = fs::absolute(from).string();
    manifest_.metrics = MetricsOf(commit_.commit());
    return WriteBundle(options_.out, &manifest_,
                       [this](const fs::path& part) { return Fill(part); });
  }

 private:
  static absl::StatusOr<std::string> VersionOf(const fs::path& path) {
    std::error_code error;
    if (!fs::exists(path, error)) return std::string();
    return DigestFile(path);
  }

  absl::Status OpenBase() {
    manifest_.precision = options_.precision;
    if (!options_.since) return absl::OkStatus();
    if (options_.hps || options_.triton) {
      return absl::InvalidArgumentError(
          "--since: HPS and Triton read whole tables and models: export a full bundle for them");
    }
    SAVIOR_ASSIGN_OR_RETURN(
        base_, OpenChain(options_.out, BundleName(*options_.since), /*digests=*/false));
    const Bundle& newest = base_->newest();
    if (newest.manifest.step >= commit_.commit().manifest.step) {
      return absl::FailedPreconditionError(
          fmt::format("--since {}: the commit is of step {}: there is nothing since",
                      *options_.since, commit_.commit().manifest.step));
    }
    manifest_.base = {newest.manifest.step, newest.digest};
    manifest_.sequence = newest.manifest.sequence + 1;
    manifest_.precision = newest.manifest.precision;
    return absl::OkStatus();
  }

  absl::Status Fill(const fs::path& part) {
    const fs::path& from = commit_.commit().folder;
    const LogSchema& schema = inputs_.log->schema();
    const Config& config = commit_.config();
    SAVIOR_RETURN_IF_ERROR(WriteFileAtomically(part / kResolvedFile, ToToml(config)));
    SAVIOR_RETURN_IF_ERROR(
        WriteFileAtomically(part / kBundleSchema, SchemaToJson(schema).dump(1) + "\n"));
    for (const char* file : {kEncoderFile, kCodebookFile}) {
      SAVIOR_RETURN_IF_ERROR(CopyVersioned(from / file, part / file).status());
    }
    SAVIOR_RETURN_IF_ERROR(WriteRanker(part, dense_));
    SAVIOR_RETURN_IF_ERROR(WriteGraphs(part, config, schema, manifest_.step, dense_));
    BundleTables tables(&commit_, inputs_.log.get(), manifest_.precision,
                        base_ ? &*base_ : nullptr, part);
    SAVIOR_ASSIGN_OR_RETURN(manifest_.tables, tables.Write());
    if (options_.hps) SAVIOR_RETURN_IF_ERROR(WriteHps(part, config));
    if (options_.triton) SAVIOR_RETURN_IF_ERROR(WriteTriton(part, config, schema, dense_));
    UseThreads(config);
    SAVIOR_ASSIGN_OR_RETURN(const std::vector<GoldenRequest> golden,
                            GoldenRequests(commit_, inputs_, options_.golden));
    return WriteFileAtomically(part / kBundleGolden, GoldenJson(golden));
  }

  const ExportOptions& options_;
  InspectedCommit& commit_;
  const RunInputs& inputs_;
  std::optional<BundleChain> base_;
  TensorFile dense_;
  BundleManifest manifest_;
};

}  // namespace

absl::StatusOr<Bundle> ExportBundle(const ExportOptions& options) {
  SAVIOR_ASSIGN_OR_RETURN(const Commit found, FindCommit(options.from));
  // Whatever is exported is served: every byte of it must be what was trained.
  SAVIOR_RETURN_IF_ERROR(OpenCommit(found.folder, /*digests=*/true).status());
  SAVIOR_ASSIGN_OR_RETURN(const auto commit, InspectedCommit::Open(found.folder));
  SAVIOR_ASSIGN_OR_RETURN(const RunInputs inputs, RunInputs::Open(commit->config()));
  if (inputs.log->fingerprint() != found.manifest.log_fingerprint) {
    return absl::FailedPreconditionError(
        fmt::format("{}: trained on the data with fingerprint {}; data.raw = {} has {}",
                    found.folder.string(), found.manifest.log_fingerprint,
                    commit->config().data.raw, inputs.log->fingerprint()));
  }
  return Exporter(options, commit.get(), inputs).Run();
}

}  // namespace savior
