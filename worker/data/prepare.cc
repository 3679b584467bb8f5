#include "worker/data/prepare.h"

#include <absl/strings/str_cat.h>
#include <arrow/type.h>

#include <array>
#include <system_error>
#include <utility>

#include "common/files.h"
#include "worker/data/parquet_parts.h"
#include "worker/data/prepare_steps.h"
#include "worker/data/staging.h"

namespace savior {
namespace {

namespace fs = std::filesystem;

constexpr std::array<const char*, 4> kTables = {"impressions", "behaviours", "items",
                                                "item_vectors"};

// `traffic`: folder of impressions and behaviours.
absl::Status Build(const fs::path& raw, const fs::path& traffic, PrepareWork* work) {
  SAVIOR_ASSIGN_OR_RETURN(const RawTable impressions, RawTable::Open(traffic, "impressions"));
  SAVIOR_ASSIGN_OR_RETURN(const RawTable behaviours, RawTable::Open(traffic, "behaviours"));
  SAVIOR_ASSIGN_OR_RETURN(const RawTable items, RawTable::Open(raw, "items"));
  SAVIOR_ASSIGN_OR_RETURN(const RawTable vectors, RawTable::Open(raw, "item_vectors"));
  ImpressionSorter impression_sorter(&impressions, work);
  BehaviourSorter behaviour_sorter(&behaviours, work);
  // Wrong schemas are told at once, not after minutes of reading other tables.
  SAVIOR_RETURN_IF_ERROR(impression_sorter.Check());
  SAVIOR_RETURN_IF_ERROR(behaviour_sorter.Check());

  SAVIOR_RETURN_IF_ERROR(PrepareItems(items, vectors, work));
  SAVIOR_RETURN_IF_ERROR(impression_sorter.Scan());
  SAVIOR_RETURN_IF_ERROR(behaviour_sorter.CountUsers());
  if (!std::in_range<int32_t>(work->users.ids().size())) {
    return absl::InvalidArgumentError("more than 2^31 users: the most that a log holds");
  }
  std::tie(work->user_ids, work->user_numbers) = work->users.Sorted();
  SAVIOR_RETURN_IF_ERROR(behaviour_sorter.Scan());
  SAVIOR_RETURN_IF_ERROR(behaviour_sorter.WriteTimelines());
  SAVIOR_ASSIGN_OR_RETURN(const auto timelines,
                          Timelines::Open(work->folder, work->manifest.timeline_first_users));
  return impression_sorter.WriteDays(*timelines, &behaviour_sorter);
}

// Tables of no rows, so that a catalogue alone goes the way of all data.
absl::Status WriteNoTraffic(const fs::path& folder) {
  const auto field = [](const char* name, const std::shared_ptr<arrow::DataType>& type) {
    return arrow::field(name, type, /*nullable=*/false);
  };
  const arrow::FieldVector ids = {field("user_id", arrow::int64()),
                                  field("item_id", arrow::int64()),
                                  field("timestamp", arrow::int64())};
  arrow::FieldVector impressions = ids, behaviours = ids;
  impressions.push_back(field("request_id", arrow::int64()));
  impressions.push_back(field("click", arrow::int8()));
  behaviours.push_back(field("kind", arrow::utf8()));
  for (const auto& [table, fields] :
       {std::pair("impressions", impressions), std::pair("behaviours", behaviours)}) {
    SAVIOR_RETURN_IF_ERROR(MakeWritableFolder(folder / table));
    ParquetParts parts(folder / table, arrow::schema(fields), /*rows_per_part=*/1);
    SAVIOR_RETURN_IF_ERROR(parts.Close());
  }
  return absl::OkStatus();
}

PrepareSummary Summarise(const LogManifest& manifest) {
  PrepareSummary summary{.impressions = manifest.impressions,
                         .requests = manifest.requests,
                         .behaviours = manifest.behaviours,
                         .users = manifest.users,
                         .items = manifest.items,
                         .contents = manifest.contents,
                         .items_without_vector = manifest.items_without_vector};
  if (manifest.impressions > 0) {
    const auto rows = static_cast<double>(manifest.impressions);
    summary.click_rate = static_cast<double>(manifest.clicks) / rows;
    summary.conversion_rate = static_cast<double>(manifest.conversions) / rows;
  }
  return summary;
}

absl::StatusOr<PrepareSummary> PrepareFrom(const PrepareOptions& options, bool catalogue_only) {
  if (options.memory_bytes <= 0) return absl::InvalidArgumentError("memory_bytes must be positive");
  SAVIOR_ASSIGN_OR_RETURN(const auto staging, Staging::Begin(options.out, kManifestName));
  PrepareWork work;
  work.folder = staging->work();
  work.scratch = work.folder / "scratch";
  work.memory_bytes = options.memory_bytes;
  SAVIOR_RETURN_IF_ERROR(MakeWritableFolder(work.scratch));
  fs::path traffic = options.raw;
  if (catalogue_only) {
    traffic = work.scratch / "no-traffic";
    SAVIOR_RETURN_IF_ERROR(WriteNoTraffic(traffic));
  }
  SAVIOR_RETURN_IF_ERROR(Build(options.raw, traffic, &work));
  SAVIOR_RETURN_IF_ERROR(RemoveAll(work.scratch));
  SAVIOR_RETURN_IF_ERROR(WriteLogManifest(work.folder, &work.manifest));
  SAVIOR_RETURN_IF_ERROR(staging->Publish());
  return Summarise(work.manifest);
}

}  // namespace

const char* TimeProblem(int64_t timestamp) {
  constexpr int64_t kYear10000 = 253'402'300'800;
  if (timestamp < 0) return "is negative";
  if (timestamp >= kYear10000) return "is beyond the year 9999: is it in milliseconds?";
  return nullptr;
}

absl::StatusOr<PrepareSummary> Prepare(const PrepareOptions& options) {
  return PrepareFrom(options, /*catalogue_only=*/false);
}

absl::StatusOr<PrepareSummary> PrepareCatalogue(const PrepareOptions& options) {
  return PrepareFrom(options, /*catalogue_only=*/true);
}

absl::StatusOr<std::string> RawFingerprint(const fs::path& raw) {
  std::string text = absl::StrCat("log version ", kLogVersion, "\n");
  for (const char* table : kTables) {
    SAVIOR_ASSIGN_OR_RETURN(const auto parts, RawParts(raw, table));
    for (const fs::path& part : parts) {
      std::error_code error;
      const auto bytes = fs::file_size(part, error);
      if (error) return absl::NotFoundError(part.string() + ": " + error.message());
      const auto modified = fs::last_write_time(part, error);
      if (error) return absl::NotFoundError(part.string() + ": " + error.message());
      absl::StrAppend(&text, table, "/", part.filename().string(), " ", bytes, " ",
                      modified.time_since_epoch().count(), "\n");
    }
  }
  return DigestBytes(text);
}

}  // namespace savior
