#include "launcher/added_items.h"

#include <absl/container/flat_hash_map.h>
#include <absl/container/flat_hash_set.h>
#include <absl/strings/ascii.h>
#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <system_error>
#include <utility>

#include "common/files.h"
#include "launcher/grown_log.h"
#include "launcher/logs.h"
#include "serving/bundle_model.h"
#include "worker/data/log_manifest.h"
#include "worker/data/log_proof.h"
#include "worker/data/prepare.h"
#include "worker/data/raw.h"
#include "worker/step_inputs.h"

namespace savior {
namespace {

namespace fs = std::filesystem;

constexpr size_t kDigits = 6;
constexpr const char* kIncoming = "incoming";  // while it is looked at

// In the order in which they came.
std::vector<fs::path> CataloguesIn(const fs::path& items) {
  std::vector<fs::path> folders;
  std::error_code error;
  for (fs::directory_iterator it(items, error), end; !error && it != end; it.increment(error)) {
    const std::string name = it->path().filename().string();
    const bool numbered = name.size() > kDigits && name[kDigits] == '-' &&
                          std::ranges::all_of(name.substr(0, kDigits), absl::ascii_isdigit);
    if (numbered) folders.push_back(it->path());
  }
  std::ranges::sort(folders);
  return folders;
}

absl::StatusOr<std::unique_ptr<TrainingLog>> OpenCatalogue(const fs::path& folder) {
  SAVIOR_ASSIGN_OR_RETURN(const LogManifest manifest, ReadLogManifest(folder));
  for (const auto& [name, entry] : manifest.files) {
    SAVIOR_ASSIGN_OR_RETURN(const std::string digest, DigestFile(folder / name));
    if (digest == entry.digest) continue;
    return absl::DataLossError(
        fmt::format("{}: has digest {}, was written with {}. Delete {}, and add its items again",
                    (folder / name).string(), digest, entry.digest, folder.string()));
  }
  return TrainingLog::Open(folder);
}

bool SameVectors(const TrainingLog& a, int32_t content_a, const TrainingLog& b, int32_t content_b) {
  if (content_a < 0 || content_b < 0) return content_a < 0 && content_b < 0;
  for (size_t m = 0; m < a.schema().modalities.size(); ++m) {
    const auto dim = static_cast<size_t>(a.schema().modalities[m].dim);
    const auto of = [&](const TrainingLog& log, int32_t content) {
      return log.vectors(m).subspan(static_cast<size_t>(content) * dim, dim);
    };
    if (!std::ranges::equal(of(a, content_a), of(b, content_b))) return false;
  }
  return true;
}

// The number of item `id` of a log; -1: it has none.
int64_t NumberOf(const TrainingLog& log, int64_t id) {
  const auto found = std::ranges::lower_bound(log.item_ids(), id);
  return found == log.item_ids().end() || *found != id ? -1 : found - log.item_ids().begin();
}

// Which contents are the same, over a log and catalogues.
class KeyedContents {
 public:
  explicit KeyedContents(const TrainingLog& log) {
    const std::vector<uint64_t> digests = ContentDigests(log), keys = ContentKeys(log);
    for (size_t c = 0; c < digests.size(); ++c) {
      known_.try_emplace(digests[c], Known{&log, static_cast<int32_t>(c), keys[c]});
    }
  }

  // The key of a content; `key`, which then is its, if nobody had it before.
  uint64_t KeyOf(const TrainingLog& of, int32_t content, uint64_t digest, uint64_t key) {
    const auto [entry, fresh] = known_.try_emplace(digest, Known{&of, content, key});
    const Known& known = entry->second;
    // Of two contents with one digest the later one stays by itself.
    return fresh || !SameVectors(*known.log, known.content, of, content) ? key : known.key;
  }

 private:
  struct Known {
    const TrainingLog* log = nullptr;
    int32_t content = 0;
    uint64_t key = 0;
  };
  absl::flat_hash_map<uint64_t, Known> known_;  // by digest
};

// Codes of strings in a vocabulary that grows.
class GrowingCodes {
 public:
  explicit GrowingCodes(std::vector<std::string>* vocabulary) : vocabulary_(*vocabulary) {
    for (size_t c = 0; c < vocabulary->size(); ++c) {
      codes_.emplace((*vocabulary)[c], static_cast<int32_t>(c));
    }
  }

  int32_t Of(const std::string& value) {
    const auto [entry, fresh] = codes_.try_emplace(value, static_cast<int32_t>(vocabulary_.size()));
    if (fresh) vocabulary_.push_back(value);
    return entry->second;
  }

 private:
  std::vector<std::string>& vocabulary_;
  absl::flat_hash_map<std::string, int32_t> codes_;
};

std::vector<std::string> NamesOf(const std::vector<CategoricalFeature>& features) {
  std::vector<std::string> names;
  names.reserve(features.size());
  for (const CategoricalFeature& feature : features) names.push_back(feature.name);
  return names;
}

size_t PlaceIn(const std::vector<std::string>& names, const std::string& name) {
  return static_cast<size_t>(std::ranges::find(names, name) - names.begin());
}

// What about a catalogue's columns is not as in the run's log.
struct Mismatch {
  bool of_vectors = false;
  std::string column, why;
};

std::optional<Mismatch> CompareSchemas(const LogSchema& log, const TrainingLog& catalogue) {
  const LogSchema& own = catalogue.schema();
  const auto names = [](const LogSchema& schema) {
    std::vector<std::string> all = NamesOf(schema.item_features);
    all.insert(all.end(), schema.item_numerics.begin(), schema.item_numerics.end());
    return all;
  };
  const std::vector<std::string> wanted = names(log), given = names(own);
  for (const std::string& name : wanted) {
    if (PlaceIn(given, name) < given.size()) continue;
    return Mismatch{false, name, "is missing: the run's items have it"};
  }
  for (const std::string& name : given) {
    if (PlaceIn(wanted, name) < wanted.size()) continue;
    return Mismatch{false, name, "is unknown: the run's items do not have it"};
  }
  if (catalogue.num_contents() == 0) return std::nullopt;
  const size_t most = std::max(log.modalities.size(), own.modalities.size());
  for (size_t m = 0; m < most; ++m) {
    if (m >= own.modalities.size()) {
      return Mismatch{true, log.modalities[m].name, "is missing: the run's items have it"};
    }
    const Modality& mine = own.modalities[m];
    if (m >= log.modalities.size()) {
      return Mismatch{true, mine.name, "is unknown: the run's items do not have it"};
    }
    const Modality& its = log.modalities[m];
    if (mine.name != its.name) {
      return Mismatch{
          true, mine.name,
          fmt::format("comes where the run's items have '{}': use the same order", its.name)};
    }
    if (mine.dim != its.dim) {
      return Mismatch{
          true, mine.name,
          mine.dim == 0
              ? "has no vector, and its type does not say of which length: use a fixed_size_list"
              : fmt::format("has vectors of length {}, the run's items of {}", mine.dim, its.dim)};
    }
  }
  return std::nullopt;
}

// Refuses `id`, naming the row of `table` that it is in.
absl::Status RefuseItem(const RawTable& table, int64_t id, const std::string& why) {
  constexpr int64_t kRows = 1 << 16;
  int64_t found = 0;
  SAVIOR_RETURN_IF_ERROR(
      table.Scan({{"item_id", RawKind::kInt}}, kRows, [&](const RawSlice& slice) -> absl::Status {
        const auto& ids = slice.columns[0].ints;
        const auto at = std::ranges::find(ids, id);
        if (at != ids.end()) found = slice.first_row + (at - ids.begin());
        return absl::OkStatus();
      }));
  return table.Refuse(found, "item_id", why);
}

struct Counts {
  int64_t added = 0, known = 0;
};

// Whether `catalogue`, prepared from `raw`, may come into a run with `log` and `before`.
absl::StatusOr<Counts> Examine(const TrainingLog& catalogue, const fs::path& raw,
                               const TrainingLog& log, const AddedItems& before) {
  SAVIOR_ASSIGN_OR_RETURN(const RawTable items, RawTable::Open(raw, "items"));
  if (const auto mismatch = CompareSchemas(log.schema(), catalogue)) {
    if (!mismatch->of_vectors) return items.RefuseColumn(mismatch->column, mismatch->why);
    SAVIOR_ASSIGN_OR_RETURN(const RawTable vectors, RawTable::Open(raw, "item_vectors"));
    return vectors.RefuseColumn(mismatch->column, mismatch->why);
  }
  Counts counts;
  for (size_t i = 0; i < catalogue.item_ids().size(); ++i) {
    const int64_t id = catalogue.item_ids()[i];
    const int64_t number = NumberOf(log, id);
    const AddedItem* const added = number < 0 ? before.Find(id) : nullptr;
    if (number < 0 && added == nullptr) {
      ++counts.added;
      continue;
    }
    ++counts.known;
    const int32_t content = catalogue.item_contents()[i];
    const bool same =
        number >= 0
            ? SameVectors(log, log.item_contents()[static_cast<size_t>(number)], catalogue, content)
            : SameVectors(*added->catalogue, added->content, catalogue, content);
    if (same) continue;
    return RefuseItem(items, id,
                      fmt::format("{} is known already, with another vector or without one: what "
                                  "was learnt about it is of what it was. Give it a new id",
                                  id));
  }
  return counts;
}

}  // namespace

absl::StatusOr<AddedItems> AddedItems::Of(const fs::path& run, const TrainingLog& log) {
  AddedItems added;
  added.schema_ = log.schema();
  const std::vector<fs::path> folders = CataloguesIn(run / "items");
  if (folders.empty()) return added;
  KeyedContents keyed(log);
  std::vector<GrowingCodes> codes;
  for (CategoricalFeature& f : added.schema_.item_features) codes.emplace_back(&f.vocabulary);
  absl::flat_hash_set<int64_t> seen;
  for (const fs::path& folder : folders) {
    SAVIOR_ASSIGN_OR_RETURN(auto opened, OpenCatalogue(folder));
    const TrainingLog& catalogue = *added.catalogues_.emplace_back(std::move(opened));
    if (const auto mismatch = CompareSchemas(log.schema(), catalogue)) {
      return absl::FailedPreconditionError(
          fmt::format("{}: column '{}' {}. Items were added to a run on other data",
                      folder.string(), mismatch->column, mismatch->why));
    }
    const std::vector<std::string> features = NamesOf(catalogue.schema().item_features);
    const std::vector<uint64_t> digests = ContentDigests(catalogue);
    NewContents fresh{.catalogue = &catalogue, .contents = {}, .keys = {}};
    for (size_t i = 0; i < catalogue.item_ids().size(); ++i) {
      const int64_t id = catalogue.item_ids()[i];
      if (NumberOf(log, id) >= 0 || !seen.insert(id).second) continue;
      AddedItem item{.id = id,
                     .listed_at = catalogue.listed_at()[i],
                     .content_key = kNoContent,
                     .features = {},
                     .numerics = {},
                     .catalogue = &catalogue,
                     .content = catalogue.item_contents()[i]};
      if (item.content >= 0) {
        item.content_key =
            keyed.KeyOf(catalogue, item.content, digests[static_cast<size_t>(item.content)],
                        static_cast<uint64_t>(id));
        if (item.content_key == static_cast<uint64_t>(id)) {
          fresh.contents.push_back(item.content);
          fresh.keys.push_back(item.content_key);
        }
      }
      for (size_t f = 0; f < codes.size(); ++f) {
        const size_t own = PlaceIn(features, added.schema_.item_features[f].name);
        const auto code = static_cast<size_t>(catalogue.item_feature(own)[i]);
        item.features.push_back(
            codes[f].Of(catalogue.schema().item_features[own].vocabulary[code]));
      }
      for (const std::string& name : added.schema_.item_numerics) {
        item.numerics.push_back(
            catalogue.item_numeric(PlaceIn(catalogue.schema().item_numerics, name))[i]);
      }
      added.items_.push_back(std::move(item));
    }
    added.contents_.push_back(std::move(fresh));
  }
  std::ranges::sort(added.items_, {}, &AddedItem::id);
  return added;
}

const AddedItem* AddedItems::Find(int64_t id) const {
  const auto found = std::ranges::lower_bound(items_, id, {}, &AddedItem::id);
  return found == items_.end() || found->id != id ? nullptr : &*found;
}

absl::StatusOr<int64_t> AddedItems::PutContents(const Commit& commit, const Config& config,
                                                const Content& content,
                                                EmbeddingStore& store) const {
  int64_t count = 0;
  if (!content.encoder) return count;
  for (const NewContents& fresh : contents_) {
    SAVIOR_RETURN_IF_ERROR(
        AddContents(commit, config, *fresh.catalogue, content, fresh.contents, fresh.keys, store));
    count += static_cast<int64_t>(fresh.contents.size());
  }
  return count;
}

absl::Status AddItems(const AddItemsArguments& arguments, std::ostream& out) {
  const fs::path run = arguments.run, items = run / "items", incoming = items / kIncoming;
  std::error_code error;
  if (!fs::exists(run / kResolvedFile, error)) {
    return absl::NotFoundError(
        fmt::format("{}: no run there ({} is missing)", run.string(), kResolvedFile));
  }
  SAVIOR_ASSIGN_OR_RETURN(const Config config, LoadConfig((run / kResolvedFile).string(), {}));
  SAVIOR_ASSIGN_OR_RETURN(const auto log, OpenOrPrepare(config));
  SAVIOR_RETURN_IF_ERROR(MakeWritableFolder(items));
  SAVIOR_ASSIGN_OR_RETURN(const auto lock, FileLock::Take(items / "lock"));
  SAVIOR_RETURN_IF_ERROR(RemoveAll(incoming));  // an earlier attempt's
  SAVIOR_ASSIGN_OR_RETURN(const AddedItems before, AddedItems::Of(run, *log));
  SAVIOR_RETURN_IF_ERROR(PrepareCatalogue({.raw = arguments.items, .out = incoming}).status());
  SAVIOR_ASSIGN_OR_RETURN(const auto catalogue, TrainingLog::Open(incoming));
  const absl::StatusOr<Counts> counts = Examine(*catalogue, arguments.items, *log, before);
  if (!counts.ok() || counts->added == 0) {
    SAVIOR_RETURN_IF_ERROR(RemoveAll(incoming));
    if (!counts.ok()) return counts.status();
    out << fmt::format("{}: nothing added: all {} items are known already\n", run.string(),
                       counts->known);
    return absl::OkStatus();
  }
  const std::vector<fs::path> folders = CataloguesIn(items);
  const int64_t last =
      folders.empty() ? 0 : std::stoll(folders.back().filename().string().substr(0, kDigits));
  const fs::path target =
      items / fmt::format("{:06}-{}", last + 1, catalogue->fingerprint().substr(0, 16));
  fs::rename(incoming, target, error);
  if (error) return SystemError(error.value(), "renaming to " + target.string());
  SAVIOR_RETURN_IF_ERROR(SyncFolder(items));
  out << fmt::format(
      "{}: {} items added, {} were known already. They are in the bundles to come: of the next "
      "commit, or of this one in another folder (savior export {} --out ...)\n",
      target.string(), counts->added, counts->known, run.string());
  return absl::OkStatus();
}

}  // namespace savior
