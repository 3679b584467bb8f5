#include "worker/data/generate.h"

#include <absl/strings/str_cat.h>
#include <arrow/array.h>
#include <arrow/util/float16.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <utility>

#include "common/files.h"
#include "common/progress.h"
#include "worker/data/arrow_files.h"
#include "worker/data/generate_truth.h"
#include "worker/data/log_manifest.h"
#include "worker/data/parquet_parts.h"
#include "worker/data/staging.h"

namespace savior {
namespace {

namespace fs = std::filesystem;

constexpr char kTruthName[] = "truth.json";
constexpr size_t kBatchRows = 1 << 17;
// Streams of randomness beside those of the truth, which are small numbers.
constexpr uint64_t kSideFeatures = uint64_t{1} << 31;
constexpr uint64_t kEvents = uint64_t{1} << 32;
constexpr std::array<const char*, 3> kChannels = {"home", "search", "cart"};

absl::Status CheckOptions(const GenerateOptions& o) {
  const auto check = [](bool fine, const char* what) {
    return fine ? absl::OkStatus() : absl::InvalidArgumentError(what);
  };
  const auto share = [](double x) { return x >= 0.0 && x <= 1.0; };
  constexpr int64_t kMost = int64_t{1} << 30;
  SAVIOR_RETURN_IF_ERROR(check(o.users > 0 && o.users < kMost, "users must be in [1, 2^30)"));
  SAVIOR_RETURN_IF_ERROR(check(o.items > 0 && o.items < kMost, "items must be in [1, 2^30)"));
  SAVIOR_RETURN_IF_ERROR(check(o.days > 0 && o.days < 100'000, "days must be in [1, 100000)"));
  SAVIOR_RETURN_IF_ERROR(check(o.requests_per_user_day > 0 && o.requests_per_user_day < 1e5,
                               "requests_per_user_day must be in (0, 100000)"));
  SAVIOR_RETURN_IF_ERROR(
      check(o.candidates > 0 && o.candidates <= std::max<int64_t>(1, o.items / 2),
            "candidates must be in [1, items / 2]"));
  SAVIOR_RETURN_IF_ERROR(
      check(o.clusters > 0 && o.clusters <= o.items, "clusters must be in [1, items]"));
  SAVIOR_RETURN_IF_ERROR(
      check(o.vector_dim > 0 && o.vector_dim < 65'536, "vector_dim must be in [1, 65536)"));
  SAVIOR_RETURN_IF_ERROR(
      check(o.image_dim >= 0 && o.image_dim < 65'536, "image_dim must be in [0, 65536)"));
  SAVIOR_RETURN_IF_ERROR(check(o.noise >= 0 && o.noise < 100, "noise must be in [0, 100)"));
  SAVIOR_RETURN_IF_ERROR(check(o.zipf >= 0 && o.zipf < 10, "zipf must be in [0, 10)"));
  SAVIOR_RETURN_IF_ERROR(check(share(o.arrivals) && o.arrivals < 1, "arrivals must be in [0, 1)"));
  SAVIOR_RETURN_IF_ERROR(check(share(o.drift), "drift must be in [0, 1]"));
  SAVIOR_RETURN_IF_ERROR(check(share(o.no_vector), "no_vector must be in [0, 1]"));
  SAVIOR_RETURN_IF_ERROR(
      check(o.start >= 0 && o.start < 200'000'000'000 && o.start % kSecondsPerDay == 0,
            "start must be a midnight, UTC, in unix seconds"));
  return check(o.rows_per_part > 0, "rows_per_part must be positive");
}

template <typename T>
std::shared_ptr<arrow::Array> Take(std::vector<T>* values) {
  using ArrayType = typename arrow::CTypeTraits<T>::ArrayType;
  const auto rows = static_cast<int64_t>(values->size());
  return std::make_shared<ArrayType>(rows, arrow::Buffer::FromVector(std::exchange(*values, {})));
}

std::shared_ptr<arrow::Array> Strings(const std::vector<std::string>& texts) {
  std::vector<int32_t> ends = {0};
  std::string bytes;
  for (const std::string& text : texts) {
    bytes += text;
    ends.push_back(static_cast<int32_t>(bytes.size()));
  }
  return std::make_shared<arrow::StringArray>(static_cast<int64_t>(texts.size()),
                                              arrow::Buffer::FromVector(std::move(ends)),
                                              arrow::Buffer::FromString(std::move(bytes)));
}

// A table being written, column by column, batch by batch. The columns' order is the schema's.
class Table {
 public:
  Table(const fs::path& folder, arrow::FieldVector fields, int64_t rows_per_part)
      : schema_(arrow::schema(std::move(fields))), parts_(folder, schema_, rows_per_part) {}

  absl::Status Write(std::vector<std::shared_ptr<arrow::Array>> columns) {
    const int64_t rows = columns.front()->length();
    return parts_.Write(*arrow::RecordBatch::Make(schema_, rows, std::move(columns)));
  }
  absl::Status Close() { return parts_.Close(); }

 private:
  const std::shared_ptr<arrow::Schema> schema_;
  ParquetParts parts_;
};

// Impressions and behaviours, in day order and within a day by user: as unsorted as logs are.
class Events {
 public:
  Events(const GenerateOptions& options, const PlantedTruth& truth, const fs::path& folder)
      : options_(options),
        truth_(truth),
        impressions_(
            folder / "impressions",
            {arrow::field("request_id", arrow::int64()), arrow::field("user_id", arrow::int64()),
             arrow::field("item_id", arrow::int64()), arrow::field("timestamp", arrow::int64()),
             arrow::field("click", arrow::int8()), arrow::field("conversion", arrow::int8()),
             arrow::field("ctx_channel", arrow::dictionary(arrow::int8(), arrow::utf8())),
             arrow::field("num_hour", arrow::float32())},
            options.rows_per_part),
        behaviours_(
            folder / "behaviours",
            {arrow::field("user_id", arrow::int64()), arrow::field("item_id", arrow::int64()),
             arrow::field("timestamp", arrow::int64()),
             arrow::field("kind", arrow::dictionary(arrow::int8(), arrow::utf8()))},
            options.rows_per_part) {}

  absl::Status Run() {
    Progress progress("generating", options_.days * options_.users, "user days");
    for (int64_t day = 0; day < options_.days; ++day) {
      for (int64_t user = 0; user < options_.users; ++user) {
        UserDay(day, user);
        if (items_.size() >= kBatchRows) SAVIOR_RETURN_IF_ERROR(Flush());
        if (user % 1024 == 0) progress.Update(day * options_.users + user);
      }
    }
    SAVIOR_RETURN_IF_ERROR(Flush());
    progress.Finish();
    SAVIOR_RETURN_IF_ERROR(impressions_.Close());
    return behaviours_.Close();
  }

  const GenerateSummary& summary() const { return summary_; }

 private:
  void UserDay(int64_t day, int64_t user) {
    const auto number = static_cast<uint64_t>(day * options_.users + user);
    Random random(options_.seed, MixTwo(kEvents, number));
    const double mean = options_.requests_per_user_day;
    auto requests = static_cast<int64_t>(mean);
    if (random.Uniform() < mean - std::floor(mean)) ++requests;
    const auto favourites = truth_.favourites(user);
    for (int64_t r = 0; r < requests; ++r) {
      const int64_t second = static_cast<int64_t>(random.Below(kSecondsPerDay));
      Request(user, favourites, options_.start + day * kSecondsPerDay + second, &random);
    }
  }

  void Request(int64_t user, std::span<const int32_t> favourites, int64_t time, Random* random) {
    const int64_t request = ++summary_.requests;
    const auto channel = static_cast<int8_t>(random->Below(kChannels.size()));
    candidates_.clear();
    for (int64_t attempt = 0; static_cast<int64_t>(candidates_.size()) < options_.candidates;
         ++attempt) {
      const int64_t item = truth_.Draw(random, favourites, time);
      const bool repeated =
          std::find(candidates_.begin(), candidates_.end(), item) != candidates_.end();
      if (repeated && attempt < 20 * options_.candidates) continue;
      if (repeated) break;  // hardly anything is listed: the request stays shorter
      candidates_.push_back(item);
    }
    const int64_t whole_hours = time % kSecondsPerDay / 3600;
    const auto hour = static_cast<float>(whole_hours);
    for (const int64_t item : candidates_) {
      const bool click = random->Uniform() < truth_.ClickProbability(user, item);
      const bool conversion = click && random->Uniform() < truth_.ConversionProbability(user, item);
      requests_.push_back(request);
      users_.push_back(truth_.user_id(user));
      items_.push_back(truth_.item_id(item));
      times_.push_back(time);
      clicks_.push_back(click ? 1 : 0);
      conversions_.push_back(conversion ? 1 : 0);
      channels_.push_back(channel);
      hours_.push_back(hour);
      // An outcome is later than its request: it can be history only to the next one.
      if (click) Behave(user, item, time + 1 + static_cast<int64_t>(random->Below(60)), 0);
      if (conversion) Behave(user, item, time + 61 + static_cast<int64_t>(random->Below(600)), 1);
      ++summary_.impressions;
      summary_.clicks += click ? 1 : 0;
      summary_.conversions += conversion ? 1 : 0;
    }
  }

  void Behave(int64_t user, int64_t item, int64_t time, int8_t kind) {
    behaviour_users_.push_back(truth_.user_id(user));
    behaviour_items_.push_back(truth_.item_id(item));
    behaviour_times_.push_back(time);
    kinds_.push_back(kind);
    ++summary_.behaviours;
  }

  absl::Status Flush() {
    const auto dictionary = [](std::vector<int8_t>* codes, const std::vector<std::string>& values) {
      return std::make_shared<arrow::DictionaryArray>(
          arrow::dictionary(arrow::int8(), arrow::utf8()), Take(codes), Strings(values));
    };
    SAVIOR_RETURN_IF_ERROR(impressions_.Write(
        {Take(&requests_), Take(&users_), Take(&items_), Take(&times_), Take(&clicks_),
         Take(&conversions_), dictionary(&channels_, {kChannels.begin(), kChannels.end()}),
         Take(&hours_)}));
    return behaviours_.Write({Take(&behaviour_users_), Take(&behaviour_items_),
                              Take(&behaviour_times_), dictionary(&kinds_, {"click", "purchase"})});
  }

  const GenerateOptions& options_;
  const PlantedTruth& truth_;
  Table impressions_;
  Table behaviours_;
  GenerateSummary summary_;
  std::vector<int64_t> candidates_;  // scratch of Request

  // Columns of the batches under way.
  std::vector<int64_t> requests_, users_, items_, times_;
  std::vector<int8_t> clicks_, conversions_, channels_;
  std::vector<float> hours_;
  std::vector<int64_t> behaviour_users_, behaviour_items_, behaviour_times_;
  std::vector<int8_t> kinds_;
};

absl::Status WriteItems(const GenerateOptions& options, const PlantedTruth& truth,
                        const fs::path& folder) {
  Table items(folder / "items",
              {arrow::field("item_id", arrow::int64()), arrow::field("listed_at", arrow::int64()),
               arrow::field("title", arrow::utf8()), arrow::field("feat_brand", arrow::utf8()),
               arrow::field("num_price", arrow::float32())},
              options.rows_per_part);
  Table truths(folder / "truth" / "items",
               {arrow::field("item_id", arrow::int64()), arrow::field("cluster", arrow::int32()),
                arrow::field("quality", arrow::float32())},
               options.rows_per_part);
  for (int64_t begin = 0; begin < options.items; begin += kBatchRows) {
    const int64_t end = std::min<int64_t>(begin + kBatchRows, options.items);
    std::vector<int64_t> ids, listed, truth_ids;
    std::vector<std::string> titles, brands;
    std::vector<float> prices, qualities;
    std::vector<int32_t> clusters;
    for (int64_t i = begin; i < end; ++i) {
      // Brand and price know nothing of the cluster: content is the only way to it.
      Random random(options.seed, MixTwo(kSideFeatures, static_cast<uint64_t>(i)));
      ids.push_back(truth.item_id(i));
      truth_ids.push_back(ids.back());
      listed.push_back(truth.listed_at(i));
      titles.push_back(absl::StrCat("item ", i, " of cluster ", truth.cluster(i)));
      brands.push_back(absl::StrCat("brand ", random.Below(100)));
      prices.push_back(static_cast<float>(std::exp(2.0 + random.Normal())));
      clusters.push_back(truth.cluster(i));
      qualities.push_back(truth.quality(i));
    }
    SAVIOR_RETURN_IF_ERROR(truths.Write({Take(&truth_ids), Take(&clusters), Take(&qualities)}));
    SAVIOR_RETURN_IF_ERROR(
        items.Write({Take(&ids), Take(&listed), Strings(titles), Strings(brands), Take(&prices)}));
  }
  SAVIOR_RETURN_IF_ERROR(items.Close());
  return truths.Close();
}

absl::Status WriteVectors(const GenerateOptions& options, const PlantedTruth& truth,
                          const fs::path& folder) {
  std::vector<int64_t> dims = {options.vector_dim};
  if (options.image_dim > 0) dims.push_back(options.image_dim);
  arrow::FieldVector fields = {arrow::field("item_id", arrow::int64())};
  std::vector<std::shared_ptr<arrow::DataType>> types;
  for (size_t m = 0; m < dims.size(); ++m) {
    types.push_back(arrow::fixed_size_list(arrow::float16(), static_cast<int32_t>(dims[m])));
    fields.push_back(arrow::field(m == 0 ? "text" : "image", types[m]));
  }
  Table vectors(folder / "item_vectors", fields, options.rows_per_part);
  constexpr int64_t kRows = 4096;
  for (int64_t begin = 0; begin < options.items; begin += kRows) {
    std::vector<int64_t> ids;
    std::vector<std::vector<uint16_t>> halves(dims.size());
    for (int64_t i = begin; i < std::min(begin + kRows, options.items); ++i) {
      if (!truth.has_vector(i)) continue;
      ids.push_back(truth.item_id(i));
      for (size_t m = 0; m < dims.size(); ++m) {
        std::vector<float> vector(static_cast<size_t>(dims[m]));
        truth.Vector(i, m, vector);
        for (const float x : vector) {
          halves[m].push_back(arrow::util::Float16::FromFloat(x).bits());
        }
      }
    }
    const auto rows = static_cast<int64_t>(ids.size());
    std::vector<std::shared_ptr<arrow::Array>> columns = {Take(&ids)};
    for (size_t m = 0; m < dims.size(); ++m) {
      const auto flat = std::make_shared<arrow::HalfFloatArray>(
          rows * dims[m], arrow::Buffer::FromVector(std::move(halves[m])));
      columns.push_back(std::make_shared<arrow::FixedSizeListArray>(types[m], rows, flat));
    }
    SAVIOR_RETURN_IF_ERROR(vectors.Write(std::move(columns)));
  }
  return vectors.Close();
}

absl::Status WriteUsers(const GenerateOptions& options, const PlantedTruth& truth,
                        const fs::path& folder) {
  const auto type = arrow::fixed_size_list(arrow::int32(), kFavourites);
  Table users(folder / "truth" / "users",
              {arrow::field("user_id", arrow::int64()), arrow::field("favourites", type)},
              options.rows_per_part);
  for (int64_t begin = 0; begin < options.users; begin += kBatchRows) {
    std::vector<int64_t> ids;
    std::vector<int32_t> favourites;
    for (int64_t u = begin; u < std::min<int64_t>(begin + kBatchRows, options.users); ++u) {
      ids.push_back(truth.user_id(u));
      const auto of_user = truth.favourites(u);
      favourites.insert(favourites.end(), of_user.begin(), of_user.end());
    }
    const auto rows = static_cast<int64_t>(ids.size());
    SAVIOR_RETURN_IF_ERROR(users.Write(
        {Take(&ids), std::make_shared<arrow::FixedSizeListArray>(type, rows, Take(&favourites))}));
  }
  return users.Close();
}

absl::Status WriteTruth(const GenerateOptions& options, const PlantedTruth& truth,
                        const GenerateSummary& summary, const fs::path& folder) {
  const nlohmann::json json = {
      {"seed", options.seed},
      {"users", options.users},
      {"items", options.items},
      {"days", options.days},
      {"requests_per_user_day", options.requests_per_user_day},
      {"candidates", options.candidates},
      {"clusters", options.clusters},
      {"vector_dim", options.vector_dim},
      {"image_dim", options.image_dim},
      {"noise", options.noise},
      {"zipf", options.zipf},
      {"arrivals", options.arrivals},
      {"drift", options.drift},
      {"no_vector", options.no_vector},
      {"start", options.start},
      {"click_logit",
       {{"bias", PlantedTruth::kClickBias},
        {"favourite", PlantedTruth::kFavourite},
        {"quality", 1.0}}},
      {"conversion_logit",
       {{"bias", PlantedTruth::kConversionBias},
        {"favourite", PlantedTruth::kConversionFavourite},
        {"quality", 1.0}}},
      {"cluster_qualities",
       std::vector<float>(truth.cluster_qualities().begin(), truth.cluster_qualities().end())},
      {"impressions", summary.impressions},
      {"requests", summary.requests},
      {"behaviours", summary.behaviours},
      {"clicks", summary.clicks},
      {"conversions", summary.conversions}};
  return WriteFileAtomically(folder / kTruthName, json.dump(1) + "\n");
}

}  // namespace

absl::StatusOr<GenerateSummary> Generate(const GenerateOptions& options) {
  SAVIOR_RETURN_IF_ERROR(CheckOptions(options));
  SAVIOR_ASSIGN_OR_RETURN(const auto staging, Staging::Begin(options.out, kTruthName));
  const PlantedTruth truth(options);
  SAVIOR_RETURN_IF_ERROR(WriteItems(options, truth, staging->work()));
  SAVIOR_RETURN_IF_ERROR(WriteVectors(options, truth, staging->work()));
  SAVIOR_RETURN_IF_ERROR(WriteUsers(options, truth, staging->work()));
  Events events(options, truth, staging->work());
  SAVIOR_RETURN_IF_ERROR(events.Run());
  SAVIOR_RETURN_IF_ERROR(WriteTruth(options, truth, events.summary(), staging->work()));
  SAVIOR_RETURN_IF_ERROR(staging->Publish());
  return events.summary();
}

}  // namespace savior
