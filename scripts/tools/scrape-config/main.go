// Command scrape-config prints the configuration that prometheus-operator would give a Prometheus that selects the
// ServiceMonitors and PodMonitors in its input.
//
//	scrape-config [-namespace NAMESPACE] <MANIFESTS >prometheus.yml
//
// MANIFESTS are YAML documents, as helm renders them; kinds other than these two and Prometheus are passed over. A
// Prometheus among them is the one that is configured, say with an apiserverConfig to reach a cluster from outside;
// without one it is a plain Prometheus that discovers endpoints by EndpointSlices. The configuration is made by the
// operator's own generator. What is not here of the operator: selection by labels, secrets, and rules.
package main

import (
	"bufio"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"

	monitoring "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	"github.com/prometheus-operator/prometheus-operator/pkg/assets"
	"github.com/prometheus-operator/prometheus-operator/pkg/prometheus"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/yaml"
)

// placeholders are what the operator leaves to the container beside Prometheus, which knows its pod.
var placeholders = strings.NewReplacer("$(SHARD)", "0", "$(POD_NAME)", "prometheus-0")

// prometheusVersion is the Prometheus that reads the configuration; set by the linker.
var prometheusVersion = "v3.0.0"

func main() {
	namespace := flag.String("namespace", "default", "of objects that name none")
	flag.Parse()
	if err := run(os.Stdin, os.Stdout, *namespace); err != nil {
		fmt.Fprintln(os.Stderr, "scrape-config: error:", err)
		os.Exit(1)
	}
}

func run(in io.Reader, out io.Writer, namespace string) error {
	found, err := read(in, namespace)
	if err != nil {
		return err
	}
	if len(found.serviceMonitors)+len(found.podMonitors) == 0 {
		return errors.New("there is no ServiceMonitor and no PodMonitor in the input")
	}
	generator, err := prometheus.NewConfigGenerator(
		slog.New(slog.NewTextHandler(os.Stderr, nil)), found.prometheus, prometheus.WithEndpointSliceSupport(),
	)
	if err != nil {
		return err
	}
	configuration, err := generator.GenerateServerConfiguration(
		found.prometheus, found.serviceMonitors, found.podMonitors, nil, nil,
		assets.NewTestStoreBuilder(), nil, nil, nil, nil,
	)
	if err != nil {
		return err
	}
	_, err = placeholders.WriteString(out, string(configuration))
	return err
}

// objects is the input, keyed as the generator wants it: by namespace and name.
type objects struct {
	prometheus      *monitoring.Prometheus
	serviceMonitors map[string]*monitoring.ServiceMonitor
	podMonitors     map[string]*monitoring.PodMonitor
}

func read(in io.Reader, namespace string) (objects, error) {
	found := objects{
		prometheus: &monitoring.Prometheus{
			ObjectMeta: meta.ObjectMeta{Name: "prometheus"},
			Spec: monitoring.PrometheusSpec{CommonPrometheusFields: monitoring.CommonPrometheusFields{
				ServiceDiscoveryRole: ptr.To(monitoring.EndpointSliceRole),
			}},
		},
		serviceMonitors: map[string]*monitoring.ServiceMonitor{},
		podMonitors:     map[string]*monitoring.PodMonitor{},
	}
	documents := utilyaml.NewYAMLReader(bufio.NewReader(in))
	for {
		document, err := documents.Read()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return objects{}, err
		}
		var kind meta.TypeMeta
		if err := yaml.Unmarshal(document, &kind); err != nil {
			return objects{}, err
		}
		if kind.APIVersion != monitoring.SchemeGroupVersion.String() {
			continue
		}
		switch kind.Kind {
		case monitoring.ServiceMonitorsKind:
			err = keep(document, namespace, found.serviceMonitors)
		case monitoring.PodMonitorsKind:
			err = keep(document, namespace, found.podMonitors)
		case monitoring.PrometheusesKind:
			found.prometheus = &monitoring.Prometheus{}
			err = yaml.UnmarshalStrict(document, found.prometheus)
		}
		if err != nil {
			return objects{}, err
		}
	}
	if found.prometheus.Namespace == "" {
		found.prometheus.Namespace = namespace
	}
	// What the apiserver would have filled in.
	for field, value := range map[*string]string{
		&found.prometheus.Spec.Version:                       prometheusVersion,
		(*string)(&found.prometheus.Spec.ScrapeInterval):     "30s",
		(*string)(&found.prometheus.Spec.EvaluationInterval): "30s",
	} {
		if *field == "" {
			*field = value
		}
	}
	return found, nil
}

// keep reads one object strictly: a field that the operator does not know is a mistake in the manifest.
func keep[T any, P interface {
	*T
	meta.Object
}](document []byte, namespace string, all map[string]P) error {
	object := P(new(T))
	if err := yaml.UnmarshalStrict(document, object); err != nil {
		return err
	}
	if object.GetNamespace() == "" {
		object.SetNamespace(namespace)
	}
	all[object.GetNamespace()+"/"+object.GetName()] = object
	return nil
}
