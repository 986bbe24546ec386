{{/*
What the schema cannot say. Each mistake here would end in a Pod that does not start, a probe that
fails or a metric nobody scrapes; all of them are told at once, before anything is changed.
*/}}
{{- define "clusterdns.checks" -}}
{{- $values := .Values }}{{ $wrong := list }}{{ $used := list }}
{{- $known := splitList "\n" (trim (.Files.Get "plugins.txt")) -}}
{{- $opaque := or $values.deployment.skipConfig (not (empty $values.extraConfig)) -}}
{{- /* The way back: CoreDNS's image under our objects, with any plugin it has. */ -}}
{{- $isCoreDNS := hasSuffix "/coredns" $values.image.repository -}}
{{- if and $isCoreDNS (empty $values.image.tag) (empty $values.image.digest) -}}
{{- $wrong = append $wrong (printf "image.repository: %s is CoreDNS's image; take clusterdns's, or go back to CoreDNS with an image.tag" $values.image.repository) -}}
{{- end -}}
{{- if and (empty $values.servers) (not $opaque) -}}
{{- $wrong = append $wrong "servers: there is none" -}}
{{- end -}}
{{- range $i, $server := $values.servers -}}
{{- range $j, $plugin := $server.plugins -}}
{{- $used = append $used $plugin.name -}}
{{- if eq $plugin.name "import" -}}
{{- $opaque = true -}}
{{- else if not (or $isCoreDNS (has $plugin.name $known)) -}}
{{- $wrong = append $wrong (printf "servers[%d].plugins[%d].name: clusterdns has no plugin %q; it has %s" $i $j $plugin.name (join " " $known)) -}}
{{- end -}}
{{- end -}}
{{- range $j, $zone := $server.zones -}}
{{- if not (or $isCoreDNS (has ($zone.scheme | default "dns://") (list "dns://" "tls://" "https://"))) -}}
{{- $wrong = append $wrong (printf "servers[%d].zones[%d].scheme: %s is not served by clusterdns, only dns://, tls:// and https://" $i $j $zone.scheme) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if and $values.status.enabled (has "status" $used) -}}
{{- $wrong = append $wrong "status.enabled: a server has the plugin status already" -}}
{{- end -}}
{{- if not $opaque -}}
{{- if and $values.livenessProbe.enabled (not (has "health" $used)) -}}
{{- $wrong = append $wrong "livenessProbe.enabled: no server has the plugin health" -}}
{{- end -}}
{{- if and $values.readinessProbe.enabled (not (has "ready" $used)) -}}
{{- $wrong = append $wrong "readinessProbe.enabled: no server has the plugin ready" -}}
{{- end -}}
{{- if and (or $values.prometheus.service.enabled $values.prometheus.monitor.enabled) (not (has "prometheus" $used)) -}}
{{- $wrong = append $wrong "prometheus: no server has the plugin prometheus" -}}
{{- end -}}
{{- end -}}
{{- if and $values.prometheus.monitor.enabled (not $values.prometheus.service.enabled) (empty $values.prometheus.monitor.selector) -}}
{{- $wrong = append $wrong "prometheus.monitor.enabled: there is nothing to scrape without prometheus.service.enabled, or a selector" -}}
{{- end -}}
{{- if and $values.hpa.enabled $values.autoscaler.enabled -}}
{{- $wrong = append $wrong "hpa.enabled, autoscaler.enabled: both would set the number of replicas, choose one" -}}
{{- end -}}
{{- if and (or $values.hpa.enabled $values.autoscaler.enabled) (not $values.deployment.enabled) (empty $values.deployment.name) -}}
{{- $wrong = append $wrong "deployment.name: with deployment.enabled=false it says what is scaled" -}}
{{- end -}}
{{- if and (eq $values.deployment.dnsPolicy "None") (empty $values.deployment.dnsConfig) -}}
{{- $wrong = append $wrong "deployment.dnsConfig: deployment.dnsPolicy None needs it" -}}
{{- end -}}
{{- if and (hasKey $values.podDisruptionBudget "minAvailable") (hasKey $values.podDisruptionBudget "maxUnavailable") -}}
{{- $wrong = append $wrong "podDisruptionBudget: minAvailable and maxUnavailable exclude one another" -}}
{{- end -}}
{{- if $values.rbac.pspEnable -}}
{{- $wrong = append $wrong "rbac.pspEnable: Kubernetes 1.25 removed PodSecurityPolicy" -}}
{{- end -}}
{{- range $i, $file := $values.zoneFiles -}}
{{- if eq $file.filename "Corefile" -}}
{{- $wrong = append $wrong (printf "zoneFiles[%d].filename: Corefile is made of servers" $i) -}}
{{- end -}}
{{- end -}}
{{- with $wrong -}}{{- fail (printf "\n  %s" (join "\n  " .)) -}}{{- end -}}
{{- end -}}
