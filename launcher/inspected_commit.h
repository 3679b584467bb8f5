// A commit opened to be looked at: its configuration, and its tables in a temporary folder.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <ostream>
#include <string>

#include "common/config.h"
#include "common/status.h"
#include "launcher/commit.h"
#include "launcher/temporary_folder.h"
#include "ps/local_store.h"

namespace savior {

// `path` is a commit folder, or a run folder: then its newest whole commit, of which every byte is
// checked; of a commit folder with `digests`. kNotFound: neither; kDataLoss: damaged (file named).
[[nodiscard]] absl::StatusOr<Commit> FindCommit(const std::filesystem::path& path,
                                                bool digests = false);

// Single-threaded. The commit is only read; the temporary folder goes with the object.
class InspectedCommit {
 public:
  [[nodiscard]] static absl::StatusOr<std::unique_ptr<InspectedCommit>> Open(
      const std::filesystem::path& path);
  InspectedCommit(const InspectedCommit&) = delete;
  InspectedCommit& operator=(const InspectedCommit&) = delete;

  const Commit& commit() const { return commit_; }
  const Config& config() const { return config_; }
  uint32_t codebook_version() const { return commit_.manifest.codebook.version; }
  uint32_t codebook_build() const { return commit_.manifest.codebook.build; }
  LocalStore& store() { return *store_; }

  // The key that a row of `table` has where the codebook in use is alone, as in a bundle. None: the
  // row is of another codebook.
  std::optional<uint64_t> KeyInBundle(uint32_t table, uint64_t key) const;
  // The way back: the commit's key of a row of the codebook in use.
  uint64_t KeyInCommit(uint32_t table, uint64_t key) const;

  // Index of table `name`. kNotFound names the nearest.
  [[nodiscard]] absl::StatusOr<uint32_t> TableNamed(const std::string& name) const;

 private:
  InspectedCommit() = default;

  Commit commit_;
  Config config_;
  std::unique_ptr<TemporaryFolder> live_;  // outlives the store in it
  std::unique_ptr<LocalStore> store_;
};

// How long looking at a commit may take: a walk over all rows of a large table is minutes.
inline Deadline InspectDeadline() { return DeadlineIn(std::chrono::minutes(30)); }

// `savior inspect codebook`: version, use of every level's codes, and the `top` most used with
// example titles; on probation the share of contents with other codes than in the version before;
// of a run whose codebook was refreshed, every version that it has had
// (launcher/refresh_history.h).
[[nodiscard]] absl::Status InspectCodebook(const std::string& path, int64_t top, std::ostream& out);

}  // namespace savior
