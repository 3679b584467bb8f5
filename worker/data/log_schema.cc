#include "worker/data/log_schema.h"

namespace savior {
namespace {

using Json = nlohmann::json;

Json FeaturesToJson(const std::vector<CategoricalFeature>& features) {
  Json json = Json::array();
  for (const CategoricalFeature& feature : features) {
    json.push_back({{"name", feature.name}, {"vocabulary", feature.vocabulary}});
  }
  return json;
}

std::vector<CategoricalFeature> FeaturesFromJson(const Json& json) {
  std::vector<CategoricalFeature> features;
  for (const Json& feature : json) {
    features.push_back({.name = feature.at("name"),
                        .vocabulary = feature.at("vocabulary").get<std::vector<std::string>>()});
  }
  return features;
}

}  // namespace

nlohmann::json SchemaToJson(const LogSchema& schema) {
  Json modalities = Json::array();
  for (const Modality& modality : schema.modalities) {
    modalities.push_back({{"name", modality.name}, {"dim", modality.dim}});
  }
  return {{"item_features", FeaturesToJson(schema.item_features)},
          {"item_numerics", schema.item_numerics},
          {"context_features", FeaturesToJson(schema.context_features)},
          {"context_numerics", schema.context_numerics},
          {"modalities", modalities},
          {"behaviour_kinds", schema.behaviour_kinds},
          {"has_conversion", schema.has_conversion},
          {"has_weight", schema.has_weight}};
}

LogSchema SchemaFromJson(const nlohmann::json& json) {
  LogSchema schema;
  schema.item_features = FeaturesFromJson(json.at("item_features"));
  schema.item_numerics = json.at("item_numerics").get<std::vector<std::string>>();
  schema.context_features = FeaturesFromJson(json.at("context_features"));
  schema.context_numerics = json.at("context_numerics").get<std::vector<std::string>>();
  for (const Json& modality : json.at("modalities")) {
    schema.modalities.push_back({.name = modality.at("name"), .dim = modality.at("dim")});
  }
  schema.behaviour_kinds = json.at("behaviour_kinds").get<std::vector<std::string>>();
  schema.has_conversion = json.at("has_conversion");
  schema.has_weight = json.at("has_weight");
  return schema;
}

}  // namespace savior
