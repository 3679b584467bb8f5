// Serving bundles: what `savior export` writes and everything that serves reads.
//
//   DIR/current -> <step>          the newest whole bundle; a link, switched atomically
//   DIR/<step, 12 digits>/
//     READY                        the manifest's digest; written last
//     manifest.json                names every other file with size and digest (sealed_folder.h)
//     resolved.toml                the configuration
//     schema.json                  features, their values and those's keys, numerics, modalities;
//                                  which table and column each input of the graph is of; an
//                                  input of two tables is named twice, its left columns first
//     ranker.safetensors           dense weights;  ranker.onnx, ranker.pt: the same as graphs
//     encoder.safetensors, codebook.safetensors    where the arm has them
//     tables/<table>.safetensors   rows by key (table_file.h): user, item, feature, align,
//                                  content_vector, content (z, codes), items (the catalogue);
//                                  prefix, with model.prefix_ngrams
//     tables/aligned.safetensors   z~ by content key; of full bundles only, as it follows from
//                                  the rest
//     golden.json                  requests with the live model's scores
//     hps/, triton/                on demand
//
// A delta has of the tables what differs from its base, and everything else in full. Its manifest
// names the base and carries a sequence number: 0 for a full bundle, then 1, 2, ...
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "common/sealed_folder.h"
#include "common/status.h"
#include "serving/row_codec.h"
#include "serving/table_file.h"

namespace savior {

inline constexpr const char* kBundleReady = "READY";
inline constexpr const char* kBundleSchema = "schema.json";
inline constexpr const char* kBundleRanker = "ranker.safetensors";
inline constexpr const char* kBundleOnnx = "ranker.onnx";
inline constexpr const char* kBundleTorchScript = "ranker.pt";
inline constexpr const char* kBundleGolden = "golden.json";
inline constexpr const char* kAlignedTable = "aligned";
inline constexpr const char* kItemsTable = "items";

struct BundleBase {
  int64_t step = 0;
  std::string digest;
};

struct BundleManifest {
  int64_t step = 0;
  int64_t sequence = 0;                 // since the full bundle
  std::optional<BundleBase> base = {};  // none: a full bundle
  Precision precision = Precision::kFloat32;
  std::string commit = {};            // the folder that it was made of, absolute
  std::string codebook_version = {};  // digest of the codebook's file; "": none
  std::string encoder_version = {};   // likewise
  std::string metrics = {};           // JSON: what the run's result says; "": not of this step
  // Contents in `content` that the commit did not know: of items that came later.
  uint64_t new_contents = 0;
  struct Table {
    std::string name;
    uint64_t rows = 0;   // in this bundle's file
    uint64_t gone = 0;   // likewise
    uint64_t total = 0;  // of the whole chain
  };
  std::vector<Table> tables = {};
  std::vector<SealedFile> files = {};
};

struct Bundle {
  std::filesystem::path folder;
  BundleManifest manifest;
  std::string digest;  // the manifest's: the bundle's identity

  std::string version() const { return folder.filename().string(); }
  std::filesystem::path TablePath(const std::string& table) const;
};

// A step's folder name, 12 digits.
std::string BundleName(int64_t step);
// "tables/<table>.safetensors"
std::string TableFileName(const std::string& table);

// Writes a bundle of manifest.step below `dir`, and makes it current. `fill` puts the files into
// the folder given to it and completes the manifest, but for its step and its list of files. Atomic
// and durable; interrupted ones are deleted first. A bundle of that step that is there already:
// kFailedPrecondition; but one newer than the current one was never current, and is replaced.
using FillBundle = std::function<absl::Status(const std::filesystem::path&, BundleManifest*)>;
[[nodiscard]] absl::StatusOr<Bundle> WriteBundle(const std::filesystem::path& dir,
                                                 BundleManifest manifest, const FillBundle& fill);

// Reads and checks one bundle: READY, the manifest, sizes, and with `digests` every byte.
// kNotFound: no bundle there; kDataLoss: damaged, or of another version (file, expected, found).
// `known`: CheckFiles's.
[[nodiscard]] absl::StatusOr<Bundle> OpenBundle(const std::filesystem::path& folder, bool digests,
                                                DigestCache* known = nullptr);

// The name of what `dir`/current points to. kNotFound: nothing was exported there.
[[nodiscard]] absl::StatusOr<std::string> CurrentBundle(const std::filesystem::path& dir);

// Deletes all bundles of `dir` but the current one, the `keep` - 1 newest full ones beside the one
// that it is based on, and their deltas; keep >= 1. Also what does not open. Each is renamed to
// .part before it is deleted, a delta before its base, so that a crash leaves only whole chains in
// sight; files that a server has mapped live until it lets go of them. Errors: CurrentBundle's,
// OpenChain's of the current one: nothing is deleted then; kFailedPrecondition: somebody writes a
// bundle there.
[[nodiscard]] absl::Status KeepNewestChains(const std::filesystem::path& dir, int64_t keep);

// Whether `delta` comes right behind `have`. kFailedPrecondition says what it is instead: a
// duplicate, one that is too old, one behind a gap, or one on another base.
[[nodiscard]] absl::Status CheckNext(const Bundle& have, const Bundle& delta);

// A full bundle and the deltas since, oldest first, up to bundle `name` of `dir`.
struct BundleChain {
  std::vector<Bundle> bundles;

  const Bundle& newest() const { return bundles.back(); }
  // Table `name` over the whole chain. Errors: TableFile::Open's, TableChain::Of's.
  [[nodiscard]] absl::StatusOr<TableChain> Table(const std::string& name) const;
};
// Errors: OpenBundle's of any of them (a base that is missing is named), CheckNext's.
[[nodiscard]] absl::StatusOr<BundleChain> OpenChain(const std::filesystem::path& dir,
                                                    const std::string& name, bool digests,
                                                    DigestCache* known = nullptr);

}  // namespace savior
